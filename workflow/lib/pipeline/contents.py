"""Digests of files and folders, computed again only after a file was touched.

DVC knows a file by its MD5. A large file is read once for SHA-256 and MD5, and DVC is told the MD5.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ssmrank.io.atomic import atomic_file

TIMESTAMP = ".snakemake_timestamp"
"""Snakemake's own file in a folder that a job has made; its time counts as the folder's."""

LARGE = 2**26
"""Bytes from which reading a file twice takes longer than telling DVC, which first has to be imported."""

_BLOCK = 2**23


def stamp(path: Path) -> str:
    """A text that changes when a file, or any file of a folder, is written, replaced or moved; "" if there is none.

    It includes the inode's change time, which no program can set. So a file that was edited in place and then given its
    old modification time has another stamp.
    """
    try:
        if path.is_dir():
            lines = [f"{file.relative_to(path).as_posix()} {_key(file)}" for file in files(path)]
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return str(_key(path))
    except FileNotFoundError:
        return ""


def files(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, except Snakemake's own and dangling links."""
    return sorted(path for path in folder.rglob("*") if path.name != TIMESTAMP and path.is_file())


class Contents:
    """Digests by path; `save` writes them to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {name: known for name, known in read_json(path).items() if _is_known(known)}
        self._changed = False
        self._lines: dict[str, Path] = {}
        self._md5: dict[str, str] = {}

    def lines(self, paths: Iterable[Path]) -> list[str]:
        """`PATH SHA-256` of files that the workflow reads but does not make; missing files are left out."""
        found = {f"{path} {self.sha256(path)}": path for path in paths if path.is_file()}
        self._lines.update(found)
        return list(found)

    def path_of(self, line: str) -> Path | None:
        """The file of a line that `lines` returned."""
        return self._lines.get(line)

    def sha256(self, path: Path) -> str:
        """The SHA-256 of a file's bytes, or of a folder's files with their names."""
        if path.is_dir():
            lines = [f"{file.relative_to(path).as_posix()} {self._file(file)}" for file in files(path)]
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return self._file(path)

    def save(self) -> None:
        """Writes the digests of files that still exist."""
        if self._changed:
            write_json(self._path, {path: known for path, known in self._known.items() if os.path.exists(path)})
            self._changed = False
        _tell_dvc({path: md5 for path, md5 in self._md5.items() if _is_current(self._known.get(path), Path(path))})
        self._md5.clear()

    def keep_through(self, path: Path, change: Callable[[], None]) -> None:
        """Calls `change`, which changes a file's times, and keeps the file's digest."""
        known = self._known.get(str(path))
        is_current = _is_current(known, path)
        change()
        if is_current and known is not None:
            self._known[str(path)] = [*_key(path), known[-1]]
            self._changed = True

    def _file(self, path: Path) -> str:
        key = _key(path)
        known = self._known.get(str(path))
        if known is None or known[:-1] != key:
            digest, md5 = _digests(path)
            if md5 is not None:
                self._md5[str(path)] = md5
            known = [*key, digest]
            self._known[str(path)] = known
            self._changed = True
        return known[-1]


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file holds; an empty one if there is no such file or it holds something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically."""
    with atomic_file(path) as stream:
        stream.write(json.dumps(values, indent=1) + "\n")


def is_digests(values: Any) -> bool:
    """Whether the value maps strings to strings."""
    return isinstance(values, dict) and all(isinstance(value, str) for value in values.values())


def is_time(value: Any) -> bool:
    """Whether the value can be the time of a file."""
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value < 2**40


def _key(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]


def _is_current(known: list[Any] | None, path: Path) -> bool:
    return known is not None and path.is_file() and known[:-1] == _key(path)


def _digests(path: Path) -> tuple[str, str | None]:
    """SHA-256 and, for a large file, MD5: read once, hashed in two threads."""
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size < LARGE:
            return hashlib.file_digest(stream, "sha256").hexdigest(), None
        ours, dvcs = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with ThreadPoolExecutor(1) as other:
            while block := stream.read(_BLOCK):
                updated = other.submit(dvcs.update, block)
                ours.update(block)
                updated.result()
    return ours.hexdigest(), dvcs.hexdigest()


def _tell_dvc(digests: Mapping[str, str]) -> None:
    """Tells DVC the MD5 of files, so that it does not read them; does nothing if DVC is not in use."""
    if not digests or not os.path.isdir(".dvc"):
        return
    try:
        from dvc.repo import Repo  # type: ignore[import-untyped]
        from dvc_data.hashfile.hash_info import HashInfo
    except ImportError:
        return
    with Repo(".") as repo:
        items = [(os.path.abspath(path), HashInfo("md5", digest), None) for path, digest in digests.items()]
        repo.state.save_many(items, repo.cache.local.fs)


def _is_known(known: Any) -> bool:
    if not isinstance(known, list) or len(known) != 5 or not isinstance(known[-1], str):
        return False
    return all(isinstance(number, int) for number in known[:-1])
