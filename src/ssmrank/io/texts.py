"""Texts by id from a JSON lines file that stays on disk.

Three arrays beside `documents.jsonl` are written with it and memory-mapped when read, so that a collection of millions
of documents takes almost no memory:

- `documents.offsets.npy`, uint64 [N + 1]: the byte at which each line starts; the last element is the file's size;
- `documents.keys.npy`, uint64 [N]: a 64-bit hash of each id, ascending;
- `documents.rows.npy`, uint32 [N]: the line (from 0) of each key.

Two ids may share a hash, so the id of a line is compared before the line is returned.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ssmrank.errors import UserError
from ssmrank.io.checksum import sha256
from ssmrank.io.files import open_file
from ssmrank.io.jsonl import parse_line, read_jsonl


class Texts(Protocol):
    """Texts by id."""

    def __getitem__(self, key: str, /) -> str: ...


class UnknownId(UserError, KeyError):
    """No text has this id."""

    __str__ = UserError.__str__  # KeyError would put the message in quotes


class DuplicateId(UserError):
    """Two lines have the same id. first, second: their numbers, from 0."""

    def __init__(self, message: str, id: str, first: int, second: int) -> None:
        super().__init__(message)
        self.id, self.first, self.second = id, first, second


def _key(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8"), digest_size=8).digest(), "little")


class TextStore:
    """`store[id]` is the text of a document, read from disk at each call.

    Uses the arrays beside the file if they fit it, else builds them in memory. Raises UserError if the file is missing,
    empty or malformed, or if an id occurs twice. Several threads may read from one store. Pickling keeps only the path.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open_file(self.path) as stream:
            size = stream.seek(0, 2)
            if size == 0:
                raise UserError(f"{self.path}: is empty")
            self._lines = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        arrays = _load_arrays(self.path, size)
        self._offsets, self._keys, self._rows = _scan(self.path) if arrays is None else arrays

    def __len__(self) -> int:
        """The number of texts."""
        return len(self._keys)

    def __contains__(self, id: object) -> bool:
        """Whether a text has this id."""
        return isinstance(id, str) and self._find(id) is not None

    def __getitem__(self, id: str) -> str:
        """The text of an id; raises UnknownId if there is none."""
        return self.record(id)["text"]

    def record(self, id: str) -> dict[str, Any]:
        """The whole line of an id: `id`, `text` and what the source adds, such as `url`; raises UnknownId."""
        record = self._find(id)
        if record is None:
            raise self._unknown(id)
        return record

    def sizes(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The bytes in each id's line, int64 [N]; raises UnknownId."""
        rows = self.rows(ids)
        return (self._offsets[rows + 1] - self._offsets[rows]).astype(np.int64)

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The line of each id, from 0, int64 [N]; raises UnknownId. Ids are compared by hash alone."""
        keys = np.fromiter(map(_key, ids), dtype=np.uint64, count=len(ids))
        places = np.minimum(np.searchsorted(self._keys, keys), len(self) - 1)
        unknown = np.flatnonzero(self._keys[places] != keys)
        if len(unknown):
            raise self._unknown(ids[unknown[0]])
        return self._rows[places].astype(np.int64)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)

    def _unknown(self, id: str) -> UnknownId:
        return UnknownId(f"{self.path}: has no id {id!r}; run, qrels and collection must belong together")

    def ids(self) -> Iterator[str]:
        """All ids, in the order of the file."""
        for row in range(len(self)):
            yield self.at(row)["id"]

    def at(self, row: int) -> dict[str, Any]:
        """The line of this number (from 0), as `record` returns it; raises UserError if it is damaged."""
        line = self._lines[int(self._offsets[row]) : int(self._offsets[row + 1])]
        try:
            return json.loads(line)
        except ValueError as error:
            raise UserError(f"{self.path}:{row + 1}: damaged; delete its folder and run again") from error

    def __reduce__(self) -> tuple[type[TextStore], tuple[Path]]:
        """Pickles the path alone."""
        return TextStore, (self.path,)

    def _find(self, id: str) -> dict[str, Any] | None:
        try:
            key = np.uint64(_key(id))
        except UnicodeEncodeError:  # a lone surrogate, which a UTF-8 file cannot hold
            return None
        position = int(np.searchsorted(self._keys, key))
        while position < len(self._keys) and self._keys[position] == key:
            record = self.at(int(self._rows[position]))
            if record["id"] == id:
                return record
            position += 1
        return None


class StoreWriter:
    """Writes a JSON lines file and the arrays of its `TextStore`, one record after another.

    Takes 16 bytes of memory for each record. Write into an `atomic_directory`, because the files are complete only
    after `close`, which raises DuplicateId if two records have the same id. With `drop_repeated` it drops exact copies
    of earlier records, and only records that differ raise.
    """

    def __init__(self, path: str | Path, drop_repeated: bool = False) -> None:
        self.path = Path(path)
        self.drop_repeated = drop_repeated
        self._stream = self.path.open("wb")
        self._offsets = array("Q", [0])
        self._keys = array("Q")

    def __enter__(self) -> StoreWriter:
        """Returns the writer itself."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Closes the file; the arrays are written unless an error occurred."""
        if kind is None:
            self.close()
        else:
            self._stream.close()

    def __len__(self) -> int:
        """The number of records written so far."""
        return len(self._keys)

    def add(self, id: str, text: str, extra: Mapping[str, str] | None = None) -> None:
        """Appends one record."""
        line = json.dumps({"id": id, "text": text} | dict(extra or {}), ensure_ascii=False).encode("utf-8") + b"\n"
        self._stream.write(line)
        self._offsets.append(self._offsets[-1] + len(line))
        self._keys.append(_key(id))

    def close(self) -> None:
        """Flushes the file and writes the arrays; raises DuplicateId."""
        self._stream.close()
        if self.drop_repeated:
            self._drop_repeated()
        offsets = np.frombuffer(self._offsets, dtype=np.uint64)
        keys, rows = _sorted(self.path, offsets, np.frombuffer(self._keys, dtype=np.uint64))
        arrays: list[NDArray[Any]] = [offsets, keys, rows]
        for name, values in zip(_names(self.path), arrays, strict=True):
            np.save(name, values)

    def _drop_repeated(self) -> None:
        keys = np.frombuffer(self._keys, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        ascending = keys[order]
        dropped: set[int] = set()
        seen: set[bytes] = set()
        last = -1
        with self.path.open("rb") as stream:
            for place in np.flatnonzero(ascending[1:] == ascending[:-1]).tolist():
                # The rows of one key are adjacent and in the order of the file.
                rows = order[place : place + 2].tolist() if place != last else order[place + 1 : place + 2].tolist()
                seen = set() if place != last else seen
                last = place + 1
                for row in rows:
                    stream.seek(self._offsets[row])
                    line = stream.readline()
                    dropped.update([row] if line in seen else [])
                    seen.add(line)
        if not dropped:
            return
        whole = self.path.with_name(f"{self.path.name}.whole")
        self.path.replace(whole)
        kept = np.ones(len(keys), dtype=bool)
        kept[list(dropped)] = False
        with whole.open("rb") as source, self.path.open("wb") as target:
            for row, raw in enumerate(source):
                if row not in dropped:
                    target.write(raw)
        whole.unlink()
        lengths = np.diff(np.frombuffer(self._offsets, dtype=np.uint64))[kept]
        self._keys = array("Q", keys[kept].tobytes())
        self._offsets = array("Q", np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64).tobytes())


def read_queries(path: str | Path) -> dict[str, str]:
    """The texts of a small JSON lines file ({"id", "text"}) by id, in its order.

    Raises UserError, naming file and line, for a malformed line, a missing key or a repeated id.
    """
    queries: dict[str, str] = {}
    for number, record in read_jsonl(path):
        if not isinstance(record.get("id"), str) or not isinstance(record.get("text"), str):
            raise UserError(f'{path}:{number}: needs "id" and "text", both strings')
        if record["id"] in queries:
            raise UserError(f"{path}:{number}: id {record['id']!r} appears twice; keep one line")
        queries[record["id"]] = record["text"]
    return queries


_Arrays = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]


def _names(path: Path) -> list[Path]:
    return [path.with_name(f"{path.stem}.{part}.npy") for part in ("offsets", "keys", "rows")]


def _load_arrays(path: Path, size: int) -> _Arrays | None:
    """The arrays beside the file; None if they are missing, damaged or made for another file."""
    try:
        # A plain view, because access to an element of an np.memmap is several times slower than to one of an ndarray.
        arrays = [np.asarray(np.load(name, mmap_mode="r")).view(np.ndarray) for name in _names(path)]
    except (OSError, ValueError, EOFError):
        return None
    offsets, keys, rows = arrays
    kinds = [(array.dtype, array.ndim) for array in arrays] == [(np.uint64, 1), (np.uint64, 1), (np.uint32, 1)]
    if not kinds or not len(offsets) == len(keys) + 1 == len(rows) + 1 or int(offsets[-1]) != size:
        return None
    # Damaged arrays would point to wrong lines, so the file is scanned again.
    sound = (offsets[1:] > offsets[:-1]).all() and (keys[1:] >= keys[:-1]).all() and (rows < len(rows)).all()
    return (offsets, keys, rows) if sound else None


def _scan(path: Path) -> _Arrays:
    offsets, keys = array("Q"), array("Q")
    position = 0
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            record = parse_line(path, number, raw)
            if record is None:
                raise UserError(f"{path}:{number}: the line is blank; delete it")
            if not isinstance(record.get("id"), str) or not isinstance(record.get("text"), str):
                raise UserError(f'{path}:{number}: needs "id" and "text", both strings')
            offsets.append(position)
            keys.append(_key(record["id"]))
            position += len(raw)
    offsets.append(position)
    starts = np.frombuffer(offsets, dtype=np.uint64)
    return starts, *_sorted(path, starts, np.frombuffer(keys, dtype=np.uint64))


def _sorted(
    path: Path, offsets: NDArray[np.uint64], keys: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """The keys in ascending order and their rows; raises DuplicateId for the first line with an earlier line's id."""
    rows = np.argsort(keys, kind="stable").astype(np.uint32)
    keys = keys[rows]
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if len(same):
        _check_same_keys(path, offsets, keys, rows, same)
    return keys, rows


def _check_same_keys(
    path: Path, offsets: NDArray[np.uint64], keys: NDArray[np.uint64], rows: NDArray[np.uint32], same: NDArray[np.intp]
) -> None:
    suspects: list[int] = sorted({int(rows[at]) for i in same for at in (i, i + 1)})
    seen: dict[str, int] = {}
    with path.open("rb") as stream:
        for row in suspects:
            stream.seek(int(offsets[row]))
            id = json.loads(stream.readline())["id"]
            if id in seen:
                message = f"{path}:{row + 1}: id {id!r} is already in line {seen[id] + 1}; keep one line"
                raise DuplicateId(message, id, seen[id], row)
            seen[id] = row
