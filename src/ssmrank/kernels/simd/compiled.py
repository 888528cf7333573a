"""numba's decorators, with a cache of machine code on disk that is keyed by all kernel sources.

numba itself checks only whether the file of a cached function has changed, not the files of functions that it calls. It
would run old machine code after an edit of `simd`. Here each version of the sources has its own folder of machine code,
so old code is never found. Nothing else of the package is compiled.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite  # type: ignore[import-untyped]
import numba
from numba.core import config as _config

settings: Any = _config

SOURCES = Path(__file__).parents[1]

_PREFIX = "numba-"


def njit(function: Callable[..., Any]) -> Any:
    """Compiles a function for use by other compiled ones; it runs without Python's lock."""
    with _machine_code() as kept:
        return numba.njit(cache=kept, nogil=True)(function)


def cfunc(function: Callable[[int], None]) -> Any:
    """Compiles a function of one integer that C code can call."""
    with _machine_code() as kept:
        return numba.cfunc(numba.types.void(numba.types.int64), cache=kept)(function)


class Loop(NamedTuple):
    """A compiled loop, as `threads.run_tasks` calls it."""

    name: str
    compiled: Any
    """A `numba.cfunc` of the address of a table of tasks (`vectors.next_task`)."""
    width: int
    """How many integers a task of it holds."""


def loop(read: Any) -> Callable[[Callable[[int], None]], Loop]:
    """Compiles a loop that takes tasks until none is left; it reads them with the function of `vectors.arguments`."""

    def decorate(function: Callable[[int], None]) -> Loop:
        return Loop(function.__name__, cfunc(function), read.count)

    return decorate


def digest() -> str:
    """A digest of all that decides machine code: the sources of all kernels, and the compiler."""
    found = hashlib.sha256(f"numba {numba.__version__} llvmlite {llvmlite.__version__}".encode())
    for path in sorted(SOURCES.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"\n{path.relative_to(SOURCES).as_posix()} {content}".encode())
    return found.hexdigest()[:16]


_AT_IMPORT = digest()


@contextmanager
def _machine_code() -> Iterator[bool]:
    """Tells numba where to keep machine code, while it decorates a function; yields whether to keep it.

    Machine code is not kept where the sources have changed since they were read.
    """
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(_folder(before))
    try:
        yield digest() == _AT_IMPORT
    finally:
        settings.CACHE_DIR = before


@cache
def _folder(users: str) -> Path:
    """The cache folder: numba's, if the user has set one, else one beside Python's compiled files, else in the home."""
    name = _PREFIX + _AT_IMPORT
    if users:
        return Path(users, name)
    folder = SOURCES / "__pycache__" / name
    new = not folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        new = False
    if not os.access(folder, os.W_OK):
        return Path.home() / ".cache" / "ssmrank" / name
    if new:
        _forget_others(folder)
    return folder


def _forget_others(folder: Path) -> None:
    """Removes machine code of sources that are no longer here."""
    for other in folder.parent.glob(f"{_PREFIX}*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
