"""Locks on files and folders, which are released when the process that holds them ends, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, lock_descriptor


def hold(descriptor: int, path: Path) -> bool:
    """Locks an open file or folder without waiting; False if another process holds the lock or has removed the path.

    On a file system without locks this succeeds, because no other process can hold a lock there either.
    """
    try:
        if not lock_descriptor(descriptor, blocking=False):
            return False
    except OSError:
        pass
    return is_same(descriptor, path)


def is_same(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file or folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Yields whether no process holds a file or folder; if so, none can lock it within the context."""
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
    """Lets one process or thread at a time in for a lock file; others wait. Each removes the file when it leaves."""
    with FileLock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held, so that a waiting process notices and makes a new one
