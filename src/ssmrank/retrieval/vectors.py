"""Vectors of a collection's documents on disk.

    vectors-00000.npy, ...   float16 or float32 [documents of the shard, width], in the order of documents.jsonl
    ids.npy                  the documents' ids as UTF-8 bytes, memory-mapped
    vectors.json             number of documents, width, documents of a shard

A shard is written as a whole, so an encoding that was killed continues with the first missing shard.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ssmrank.config.reading import check
from ssmrank.config.section import Section
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory, atomic_file, disk_errors
from ssmrank.io.plain import read_json
from ssmrank.io.texts import TextStore

log = logging.getLogger(__name__)

_DESCRIPTION = "vectors.json"
_STATE = "encoding.json"


class DocumentEncoder(Protocol):
    """Anything that encodes documents as vectors."""

    width: int

    def documents(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """Vectors, [texts, width]."""
        ...


class VectorsDescription(Section):
    """What a folder of vectors holds."""

    documents: int = Field(ge=1)
    width: int = Field(ge=1)
    shard_documents: int = Field(ge=1)


def encode_collection(
    encoder: DocumentEncoder,
    documents: Path,
    output: Path,
    state: Path,
    shard_documents: int,
    fingerprint: str,
    kept: Literal["float16", "float32"] = "float16",
) -> VectorsDescription:
    """Writes the vectors of documents.jsonl to the folder `output`, which is complete or absent.

    Finished shards are kept in the folder `state` until all are done. Shards of another `fingerprint` (of model,
    settings and texts) are encoded again. `kept` is the dtype on disk. Raises UserError where a vector is not finite or
    too large for it.
    """
    store = TextStore(documents)
    description = VectorsDescription(documents=len(store), width=encoder.width, shard_documents=shard_documents)
    with disk_errors(state):
        _open_state(state, fingerprint + description.model_dump_json())
    shards = range(0, len(store), shard_documents)
    for number, first in enumerate(shards):
        path = state / _shard_name(number)
        if path.is_file():
            continue
        records = [store.at(row) for row in range(first, min(first + shard_documents, len(store)))]
        vectors = encoder.documents([record["text"] for record in records])
        with np.errstate(over="ignore"):
            rounded = vectors.astype(kept)
        if not np.isfinite(rounded).all():
            id = records[int(np.flatnonzero(~np.isfinite(rounded).all(axis=1))[0])]["id"]
            raise UserError(
                f"{documents}: the vector of document {id} does not fit {kept}; set precision: fp32 or vectors: "
                "float32 in the section of encoders"
            )
        with atomic_file(path, "wb") as stream:
            np.save(stream, rounded)
        log.info("%s: shard %d of %d, %s documents", output, number + 1, len(shards), f"{first + len(records):,}")
    with atomic_directory(output) as folder:
        for number in range(len(shards)):
            _move(state / _shard_name(number), folder / _shard_name(number))
        _write_ids(folder / "ids.npy", store)
        (folder / _DESCRIPTION).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(state, ignore_errors=True)
    return description


def _write_ids(path: Path, store: TextStore) -> None:
    """Writes all ids as bytes [N], without a Python object for each in memory."""
    width = max(len(id.encode()) for id in store.ids())
    array = np.lib.format.open_memmap(path, mode="w+", dtype=f"S{width}", shape=(len(store),))
    for row, id in enumerate(store.ids()):
        array[row] = id.encode()
    array.flush()


class Vectors:
    """A folder of vectors; shards are memory-mapped."""

    def __init__(self, folder: Path) -> None:
        """Opens a folder. Raises UserError where its description or ids are missing or do not fit each other."""
        path = folder / _DESCRIPTION
        if not path.is_file():
            raise UserError(f"{folder}: has no complete vectors; make them with `ssmrank index vectors`")
        self.description = check(VectorsDescription, read_json(path, "encode again"), str(path))
        self.folder = folder
        self.ids: NDArray[np.bytes_] = _load(folder / "ids.npy")
        if self.ids.ndim != 1 or self.ids.dtype.kind != "S":
            raise UserError(f"{folder}/ids.npy: has no ids; encode again")
        if len(self.ids) != len(self):
            raise UserError(f"{folder}/ids.npy: {len(self.ids)} ids for {len(self)} documents; encode again")

    def __len__(self) -> int:
        """Number of documents."""
        return self.description.documents

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of documents by row number, float32 [rows, width]."""
        found = np.empty((len(rows), self.description.width), dtype=np.float32)
        for first, vectors in self.shards():
            own = np.flatnonzero((rows >= first) & (rows < first + len(vectors)))
            found[own] = vectors[rows[own] - first]
        return found

    def shards(self) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """Yields for each shard the row of its first document and its vectors, [documents, width].

        Raises UserError where a shard is missing or of another shape.
        """
        step = self.description.shard_documents
        for number, first in enumerate(range(0, len(self), step)):
            path = self.folder / _shard_name(number)
            vectors = _load(path)
            if vectors.dtype.kind != "f" or vectors.shape != (min(step, len(self) - first), self.description.width):
                raise UserError(f"{path}: has shape {vectors.shape}, which does not fit its documents; encode again")
            yield first, vectors


def _load(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read; encode again") from error
    if not isinstance(array, np.ndarray):  # an archive of arrays
        raise UserError(f"{path}: has no array; encode again")
    return array


def _open_state(state: Path, fingerprint: str) -> None:
    known = state / _STATE
    if known.is_file() and known.read_bytes() == fingerprint.encode():
        log.info("%s: resuming with %d finished shards", state, len(list(state.glob("vectors-*.npy"))))
        return
    # A job killed during this removal leaves shards without a fingerprint. Their model is unknown, so they go too.
    if state.exists():
        shutil.rmtree(state)
    with atomic_file(known, "wb") as stream:
        stream.write(fingerprint.encode())


def _shard_name(number: int) -> str:
    return f"vectors-{number:05d}.npy"


def _move(source: Path, target: Path) -> None:
    """Links the file, so that the source is still there if moving stops half-way; copies it on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
