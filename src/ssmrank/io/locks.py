"""Locks on files and folders, which end with the process that holds them, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, lock_descriptor


def hold(descriptor: int, path: Path) -> bool:
    """Locks an open file or folder without waiting; False where another process holds it or has removed it.

    A file system without locks counts as free: nobody else can hold anything there either.
    """
    try:
        if not lock_descriptor(descriptor, blocking=False):
            return False
    except OSError:
        pass
    return is_same(descriptor, path)


def is_same(descriptor: int, path: Path) -> bool:
    """Whether the path still names what was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether no process holds a file or folder; inside, none can take it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        free = lock_descriptor(descriptor, blocking=False) and is_same(descriptor, path)
    except OSError:
        free = False
    try:
        yield free
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process, or thread, at a time is inside for this lock file; others wait. The last one removes it."""
    with FileLock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: who waits sees that it is gone, and makes a new one
