"""States of documents on disk: files of many states, for one checkpoint and precision.

A folder has a folder for each checkpoint and precision, and this has safetensors files. Each is written under a hidden
name and then renamed, so whatever is there is complete, and several processes may write at once. A file has

- `keys`, uint8 [N, 16]: digests of the prefixes' tokens;
- `tokens`, int64 [N]: how many tokens each prefix has;
- `starts`, int64 [N + 1]: where each state starts in `states`;
- `checksums`, int64 [N]: CRC-32 of each state's bytes;
- `states`, uint8: the states end to end, as `StatePool.parts` gives them.

Its metadata say what the states were computed with, how they are stored, and the CRC-32 of the other arrays. A state
whose checksum differs is not used; neither are the other states of its file from then on.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.io.checksum import sha256 as sha256_of_file
from ssmrank.models.kept_states import StatePool
from ssmrank.models.precision import Precision
from ssmrank.reranking.document_prefixes import Prefix

log = logging.getLogger(__name__)

SHARD_BYTES = 2**27
"""About how many bytes of states are in a file."""

_FORMAT = "ssmrank states 1"
_INDEX = ("keys", "tokens", "starts", "checksums")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _Shard(NamedTuple):
    """A file; data: where its states begin; tokens, starts, checksums: of its states."""

    path: Path
    data: int
    storage: dict[str, Any]
    tokens: np.ndarray
    starts: np.ndarray
    checksums: np.ndarray


class _Damaged(Exception):
    """A file that cannot be used, and why."""


class StateFolder:
    """The states on disk of one checkpoint in one precision. Not for several threads at once.

    checkpoint: the checkpoint's digest, from `checkpoint_digest`. Raises UserError if the folder cannot be read.
    """

    def __init__(self, folder: str | Path, checkpoint: str, precision: Precision) -> None:
        name = sha256(f"{_FORMAT} {checkpoint} {precision}".encode()).hexdigest()[:16]
        self.path = Path(folder) / f"{precision}-{name}"
        self._made_with = {"format": _FORMAT, "checkpoint": checkpoint, "precision": precision}
        self._shards: dict[str, _Shard] = {}
        self._refused: set[str] = set()
        self._places: dict[bytes, tuple[str, int]] = {}
        self._changed, self._looked = -1, 0.0
        if Path(folder).exists() and not Path(folder).is_dir():
            raise UserError(f"{folder}: is no folder; give one for the states of documents")
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def refresh(self, wait: float = 0.0) -> None:
        """Finds files that were written since; not if the last look was less than `wait` seconds ago."""
        now = time.monotonic()
        if now - self._looked < wait:
            return
        self._looked = now
        try:
            changed = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._changed:
            return
        self._changed = changed
        for path in sorted(self.path.glob("*.safetensors")):
            if path.name in self._shards or path.name in self._refused:
                continue
            try:
                self._add(path)
            except _Damaged as problem:
                self._refuse(path.name, str(problem))

    def size(self, key: bytes) -> int:
        """Bytes of a state that is there."""
        name, row = self._places[key]
        starts = self._shards[name].starts
        return int(starts[row + 1] - starts[row])

    def tokens(self, key: bytes) -> int:
        """How many tokens the prefix of a state has that is there."""
        name, row = self._places[key]
        return int(self._shards[name].tokens[row])

    def keys(self) -> list[bytes]:
        """The keys of all states."""
        return list(self._places)

    def load(self, prefix: Prefix, pool: StatePool, slot: int) -> bool:
        """Reads a state into a slot of a pool; False if it is not there or damaged, which is logged once a file."""
        if prefix.key not in self._places:
            return False
        name, row = self._places[prefix.key]
        shard = self._shards[name]
        try:
            self._read(shard, row, prefix, pool, slot)
        except (_Damaged, OSError) as problem:
            self._refuse(name, str(problem))
            return False
        return True

    def write(self, prefixes: Sequence[Prefix], pool: StatePool, slots: Sequence[int]) -> Path:
        """Writes states of a pool as one file. Raises UserError if the disk is full or not writable."""
        storage = _storage(pool)
        chunks: list[bytes] = []
        checksums, starts = [], [0]
        for slot in slots:
            parts = [_bytes_of(part.cpu()) for part in pool.parts(slot)]
            chunks += [part.tobytes() for part in parts]
            checksums.append(_checksum(parts))
            starts.append(starts[-1] + sum(part.nbytes for part in parts))
        arrays: dict[str, np.ndarray] = {
            "keys": np.frombuffer(b"".join(prefix.key for prefix in prefixes), dtype=np.uint8).reshape(-1, 16),
            "tokens": np.array([len(prefix.tokens) for prefix in prefixes], dtype=np.int64),
            "starts": np.array(starts, dtype=np.int64),
            "checksums": np.array(checksums, dtype=np.int64),
            "states": np.frombuffer(b"".join(chunks), dtype=np.uint8),
        }
        del chunks
        metadata = self._made_with | {"storage": json.dumps(storage), "index": str(_index_checksum(arrays))}
        name = blake2b(arrays["keys"].tobytes(), digest_size=12).hexdigest()
        path = self.path / f"{name}.safetensors"
        with atomic_file(path, "wb") as stream:
            stream.write(save(arrays, metadata))
        self._refused.discard(path.name)
        self._add(path)
        return path

    def _add(self, path: Path) -> None:
        shard, keys = _open(path, self._made_with)
        self._shards[path.name] = shard
        for row, key in enumerate(keys):
            self._places[key] = path.name, row

    def _refuse(self, name: str, problem: str) -> None:
        self._refused.add(name)
        self._shards.pop(name, None)
        self._places = {key: place for key, place in self._places.items() if place[0] != name}
        log.warning("%s: %s; its documents are computed again; delete it", self.path / name, problem)

    def _read(self, shard: _Shard, row: int, prefix: Prefix, pool: StatePool, slot: int) -> None:
        if shard.tokens[row] != len(prefix.tokens):
            raise _Damaged("a state is of another number of tokens")
        as_they_are = shard.storage == _storage(pool) and pool.device.type == "cpu"
        parts = pool.parts(slot) if as_they_are else _empty_parts(shard.storage, pool, slot)
        begin, end = shard.starts[row : row + 2].tolist()
        views = [_bytes_of(part) for part in parts]
        if sum(view.nbytes for view in views) != end - begin:
            raise _Damaged("its states have another shape than the model's")
        descriptor = os.open(shard.path, os.O_RDONLY)
        try:
            read = os.preadv(descriptor, views, shard.data + begin)  # type: ignore[arg-type]
        finally:
            os.close(descriptor)
        if read != end - begin or _checksum(views) != shard.checksums[row]:
            raise _Damaged("is damaged")
        if not as_they_are:
            pool.write_parts(slot, parts, turned=shard.storage["turned"])


def checkpoint_digest(folder: Path) -> str:
    """A digest of a checkpoint's weights and config."""
    files = sorted({folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.bin")})
    digest = sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.name} {sha256_of_file(file)}\n".encode())
    return digest.hexdigest()


def _storage(pool: StatePool) -> dict[str, Any]:
    """How a pool's states are stored, as JSON keeps it."""
    shapes = pool.shapes
    return {
        "scans": [[layer, *shape] for layer, shape in shapes.scans.items()],
        "tails": [[layer, *shape] for layer, shape in shapes.tails.items()],
        "keys": [[layer, *shape] for layer, shape in shapes.keys.items()],
        "fixed_dtype": str(pool.fixed_dtype).removeprefix("torch."),
        "key_dtype": str(pool.key_dtype).removeprefix("torch."),
        "turned": pool.turned,
    }


def _empty_parts(storage: dict[str, Any], pool: StatePool, slot: int) -> list[torch.Tensor]:
    """Memory for a state that is stored otherwise than in the pool, on the CPU."""
    fixed, keys = _DTYPES[storage["fixed_dtype"]], _DTYPES[storage["key_dtype"]]
    dtypes = [fixed] * bool(pool.shapes.scans) + [keys] * bool(pool.shapes.keys)
    return [torch.empty(len(part), dtype=dtype) for part, dtype in zip(pool.parts(slot), dtypes, strict=True)]


def _open(path: Path, made_with: dict[str, str]) -> tuple[_Shard, list[bytes]]:
    """A file's index. Raises _Damaged if it is not complete, or of another checkpoint."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = os.fstat(stream.fileno()).st_size
            if not 0 < length < size:
                raise _Damaged("is damaged")
            header = json.loads(stream.read(length))
            data = 8 + length
            metadata, places = header.pop("__metadata__"), {n: entry["data_offsets"] for n, entry in header.items()}
            if {name: metadata.get(name) for name in made_with} != made_with:
                raise _Damaged("has states of another checkpoint, precision or version")
            arrays = {}
            for name in _INDEX:
                stream.seek(data + places[name][0])
                content = stream.read(places[name][1] - places[name][0])
                arrays[name] = np.frombuffer(content, dtype=np.uint8 if name == "keys" else np.int64)
            if data + max(end for _, end in places.values()) != size or not _fits(arrays, places, metadata):
                raise _Damaged("is damaged")
            begin, storage = places["states"][0], json.loads(metadata["storage"])
    except OSError as error:
        raise _Damaged(f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged("is damaged") from error
    keys = arrays["keys"].tobytes()
    shard = _Shard(path, data + begin, storage, *(arrays[name] for name in _INDEX[1:]))
    return shard, [keys[start : start + 16] for start in range(0, len(keys), 16)]


def _fits(arrays: dict[str, np.ndarray], places: dict[str, list[int]], metadata: dict[str, str]) -> bool:
    count, states = len(arrays["tokens"]), places["states"][1] - places["states"][0]
    lengths = len(arrays["keys"]), len(arrays["starts"]), len(arrays["checksums"])
    right = int(metadata["index"]) == _index_checksum(arrays)
    return right and lengths == (16 * count, count + 1, count) and int(arrays["starts"][-1]) == states


def _index_checksum(arrays: dict[str, np.ndarray]) -> int:
    return _checksum([np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8) for name in _INDEX])


def _bytes_of(part: torch.Tensor) -> np.ndarray:
    return part.view(torch.uint8).numpy()


def _checksum(parts: Sequence[np.ndarray]) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part.data, value)
    return value
