"""Files and folders that are either complete or absent.

Everything is written under a temporary name beside its destination and renamed at the end. A job that is killed or
runs out of disk space thus leaves what was there before.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from ssmrank.errors import UserError
from ssmrank.io.locks import hold, locked

PART, ASIDE = ".part", ".old"
"""Suffixes of hidden names: of what is being written, and of a folder that is being replaced."""

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free space or choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a file is in the place of a folder; move it away",
    errno.EEXIST: "a file is in the place of a folder; move it away",
    errno.EISDIR: "a folder is in the place of a file; move it away",
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a missing permission into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        advice = _DISK_ERRORS.get(error.errno or 0)
        if advice is None:
            raise
        raise UserError(f"{path}: cannot write: {advice}") from error


@contextmanager
def atomic_file(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file beside `path` (mode "w": UTF-8 text, "wb": bytes); renames it on success.

    Raises UserError if the disk is full or the folder is not writable.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _new(path, _make_file)
        try:
            # A second descriptor holds the lock of the file until the file has its final name.
            with os.fdopen(os.dup(descriptor), mode, encoding=None if "b" in mode else "utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which replaces `path` on success and is removed on failure.

    An existing folder is put aside before it is replaced, and removed after. Whenever the process is killed, one of the
    two is complete on disk; `ssmrank.io.leftovers.sweep` puts the old one back if necessary.
    """
    path = Path(path)
    with disk_errors(path), _scratch(path) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _sync_all(temporary)
        if path.is_dir() and not path.is_symlink():
            aside = temporary.with_suffix(ASIDE)
            path.rename(aside)
            try:
                temporary.replace(path)
            except BaseException:
                aside.rename(path)
                raise
            _sync(path.parent)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            temporary.replace(path)
            _sync(path.parent)


@contextmanager
def scratch_directory(name: str = "ssmrank", parent: Path | None = None) -> Iterator[Path]:
    """Yields a hidden folder that is removed afterwards; if the process is killed, the next sweep removes it.

    parent: None: the system's folder for temporary files.
    """
    parent = parent or Path(tempfile.gettempdir())
    with ExitStack() as stack:
        with disk_errors(parent):
            folder = stack.enter_context(_scratch(parent / name))
        yield folder


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, folder = _new(path, _make_directory)
    try:
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def one_at_a_time(path: str | Path) -> Iterator[None]:
    """Lets one process or thread at a time in for a path; others wait. Meanwhile a hidden lock file is beside it."""
    path = Path(path)
    with ExitStack() as stack:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.with_name(f".{path.name}.lock")))
        yield


def _new(path: Path, make: Callable[[Path], tuple[int, Path]]) -> tuple[int, Path]:
    """A new file or folder beside `path`, open and locked, so that a sweep sees that it is in use."""
    while True:
        descriptor, made = make(path)
        if hold(descriptor, made):
            return descriptor, made
        os.close(descriptor)  # a sweep removed it before it was locked


def _make_file(path: Path) -> tuple[int, Path]:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    return descriptor, Path(name)


def _make_directory(path: Path) -> tuple[int, Path]:
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART))
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY), folder


def _sync_all(folder: Path) -> None:
    """Flushes a folder and everything in it to disk, so that a power cut leaves no name without its content."""
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place, name))
        _sync(Path(place))


def _sync(path: Path) -> None:
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
