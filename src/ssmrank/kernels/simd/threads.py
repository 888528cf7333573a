"""Runs compiled loops on as many threads as torch is set to use, on torch's own threads if possible.

Between two operations torch's OpenMP threads spin for some milliseconds. Threads of our own would compete with them for
the cores, so the loops are handed to the same OpenMP library (`GOMP_parallel`, which GNU's, LLVM's and Intel's have).
Where it is not found, a thread pool is used.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ssmrank.kernels.simd.compiled import Loop

_pools: dict[int, ThreadPoolExecutor] = {}
_forked = False


def _after_fork() -> None:
    """A forked child (a data loader's worker) has none of its parent's threads, and GNU's OpenMP waits for them."""
    global _forked
    _forked = True
    _pools.clear()


os.register_at_fork(after_in_child=_after_fork)


def run_tasks(loop: Loop, tasks: Iterable[tuple[int, ...]]) -> None:
    """Runs the loop on all tasks, on `torch.get_num_threads()` threads; returns when all are done.

    Tasks must not write to the same memory. Raises ValueError for a task with another number of integers than the loop
    reads, since they are addresses.
    """
    rows = [*tasks]
    if not rows:
        return
    for row in rows:
        if len(row) != loop.width:
            raise ValueError(f"{loop.name} takes tasks of {loop.width} integers, one has {len(row)}")
    table = np.concatenate([np.array([0, len(rows), loop.width]), np.array(rows, dtype=np.int64).ravel()])
    function = loop.compiled
    threads = torch.get_num_threads()
    if threads == 1 or len(rows) == 1:
        function.ctypes(table.ctypes.data)
        return
    parallel = None if _forked else _gomp_parallel()
    if parallel is not None:
        parallel(function.address, table.ctypes.data, threads, 0)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="ssmrank-kernels")
    for future in [pool.submit(function.ctypes, table.ctypes.data) for _ in range(min(threads, len(rows)))]:
        future.result()


@cache
def _gomp_parallel() -> Callable[[int, int, int, int], None] | None:
    """`GOMP_parallel(function, data, threads, flags)` of torch's own OpenMP library; None where it has none."""
    # A symbol is looked up in a library and the libraries linked to it, so this is never another package's.
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        library = Path(torch.__file__).parent / "lib" / name
        if library.is_file():
            try:
                function = ctypes.CDLL(str(library)).GOMP_parallel
            except (OSError, AttributeError):
                return None
            function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            function.restype = None
            return function
    return None
