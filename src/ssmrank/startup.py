"""How the process of a command is set up: its garbage collector and its allocator."""

from __future__ import annotations

import atexit
import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """For the imports of a process that runs one command: the collector never visits what they make.

    torch and transformers make half a million objects, which live until the process ends. Collections take a fifth of
    the time of their imports, and without the freeze at the exit another second there. Memory that the command itself
    uses is collected as ever.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.freeze)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of settings in glibc's malloc.h."""


def reuse_freed_memory() -> None:
    """Makes glibc keep memory that tensors on the CPU have freed for those of the next layer or step.

    By default glibc hands it back once 64 MiB are free, and the kernel then clears each page again at its next use. A
    training on a CPU spends a tenth of its time there. The process keeps at most 2 GiB that it does not use. Elsewhere
    than with glibc, nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the largest that every version of glibc takes
    libc.mallopt(_M_TRIM_THRESHOLD, (2 << 30) - 1)
