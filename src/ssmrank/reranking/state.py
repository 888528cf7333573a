"""Finished batches of a reranking, from which it resumes after a kill.

Each process appends the scores of every finished batch to a file of its own. A record has a header of four int64 (mark,
number of the batch, number of pairs, CRC-32 of what follows), the pairs as int64 and their scores as float32. A record
at a file's end that a kill left half-written is dropped.
"""

from __future__ import annotations

import logging
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssmrank.io.atomic import atomic_file, disk_errors

log = logging.getLogger(__name__)

_MARK = 0x73736D72616E6B
_HEADER = 4


class RerankingState:
    """The folder of a reranking's finished batches.

    fingerprint: names the inputs and settings. `begin` removes batches of another fingerprint.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def begin(self) -> None:
        """Makes the folder ready. One process calls this before the others read the folder."""
        name = self.folder / "fingerprint"
        if not name.is_file() or name.read_bytes() != self.fingerprint.encode():
            if self.folder.exists():
                with disk_errors(self.folder):
                    shutil.rmtree(self.folder)
            with atomic_file(name) as stream:
                stream.write(self.fingerprint)

    def finished(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """For each finished batch, by number, its pairs, int64, and their scores, float32."""
        found = {}
        for path in sorted(self.folder.glob("*.scores")):
            for number, pairs, scores, _ in _records(path):
                found[number] = pairs, scores
        return found

    def finished_into(self, scores: np.ndarray) -> set[int]:
        """Puts the finished batches' scores into `scores`, float32, and returns the batches' numbers."""
        finished = self.finished()
        for pairs, found in finished.values():
            scores[pairs] = found
        return set(finished)

    def add(self, process: int, number: int, pairs: np.ndarray, scores: np.ndarray) -> None:
        """Appends a finished batch to the process's file."""
        path = self.folder / f"{process}.scores"
        body = pairs.astype(np.int64).tobytes() + scores.astype(np.float32).tobytes()
        header = np.array([_MARK, number, len(pairs), zlib.crc32(body)], dtype=np.int64)
        with disk_errors(path), path.open("ab") as stream:
            stream.write(header.tobytes() + body)

    def repair(self, process: int) -> None:
        """Removes a half-written record at the end of the process's file."""
        path = self.folder / f"{process}.scores"
        if path.is_file():
            end = max((end for *_, end in _records(path)), default=0)
            if end < path.stat().st_size:
                with path.open("r+b") as stream:
                    stream.truncate(end)


def _records(path: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray, int]]:
    """Yields (number, pairs, scores, end in bytes) of each record, up to the first damaged one."""
    content = path.read_bytes()
    place, head = 0, 8 * _HEADER
    while place + head <= len(content):
        mark, number, count, checksum = np.frombuffer(content, np.int64, _HEADER, place).tolist()
        end = place + head + 12 * count
        if mark != _MARK or count < 0 or end > len(content) or zlib.crc32(content[place + head : end]) != checksum:
            return
        pairs = np.frombuffer(content, np.int64, count, place + head)
        scores = np.frombuffer(content, np.float32, count, place + head + 8 * count)
        yield number, pairs, scores, end
        place = end
