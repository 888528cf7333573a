"""numba's decorators, with a cache of machine code on disk that is keyed by all kernel sources.

numba itself checks only whether the file of a cached function has changed, not the files of functions that it calls. It
would run old machine code after an edit of `simd`. Here each version of the sources has its own folder of machine code,
so old code is never found. Nothing else of the package is compiled.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
from numba.core import config as _config

log = logging.getLogger(__name__)

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
        if not _is_cached(function):
            _say_that_it_takes_long()
        return numba.cfunc(numba.types.void(numba.types.int64), cache=kept)(function)


class Loop:
    """A loop that is compiled, or read from the cache, when it is first run: most processes run only some of them.

    name: that of its function. width: how many integers a task of it holds.
    """

    def __init__(self, function: Callable[[int], None], width: int) -> None:
        self.name, self.width = function.__name__, width
        self._function = function

    @cached_property
    def compiled(self) -> Any:
        """A `numba.cfunc` of the address of a table of tasks (`vectors.next_task`)."""
        return cfunc(self._function)


def loop(read: Any) -> Callable[[Callable[[int], None]], Loop]:
    """Makes a loop of a function that takes tasks until none is left. read: the function of `vectors.arguments`."""
    return lambda function: Loop(function, read.count)


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


def _is_cached(function: Callable[..., Any]) -> bool:
    """Whether the cache has machine code of a function, by the name that numba gives to the file."""
    named = f"*/*.{function.__qualname__}-{function.__code__.co_firstlineno}.*.nbi"
    return any(Path(settings.CACHE_DIR).glob(named))


@cache
def _say_that_it_takes_long() -> None:
    log.warning(
        "compiling loops for this CPU, once for each version of ssmrank: takes 5 to 10 seconds (kept in %s)",
        settings.CACHE_DIR,
    )


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
