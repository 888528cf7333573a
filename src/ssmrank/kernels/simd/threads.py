"""Runs compiled loops on as many threads as torch is set to use: on torch's own threads where that can be done.

Between two operations torch's OpenMP threads wait actively for some milliseconds. Threads of our own would share the
cores with them, so the loops are handed to the same OpenMP library (`GOMP_parallel`, which GNU's, LLVM's and Intel's
have). Where it is not found, a thread pool serves.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

_pools: dict[int, ThreadPoolExecutor] = {}
_forked = False


def _after_fork() -> None:
    """A forked child (a data loader's worker) has none of its parent's threads, and GNU's OpenMP waits for them."""
    global _forked
    _forked = True
    _pools.clear()


os.register_at_fork(after_in_child=_after_fork)


def run_tasks(function: Any, tasks: Iterable[tuple[int, ...]]) -> None:
    """Calls `function` for each task; returns when all are done.

    `function` is a `numba.cfunc` of one argument, the address of a table as `simd.next_task` reads it, that takes
    tasks until none is left. Tasks must not write to the same memory. Threads: `torch.get_num_threads()`.
    """
    rows = np.array([*tasks], dtype=np.int64)
    if not len(rows):
        return
    table = np.concatenate([np.array([0, *rows.shape], dtype=np.int64), rows.ravel()])
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
    """`GOMP_parallel(function, data, threads, flags)` of the OpenMP library that torch has loaded, or None."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    loaded = {Path(line.split()[-1]) for line in lines if re.search(r"/lib(gomp|omp|iomp5)[^/]*$", line)}
    # Other packages bring OpenMP libraries of their own, with threads of their own.
    site = Path(torch.__file__).parents[1]
    own = {path for path in loaded if path.is_relative_to(site / "torch") or path.is_relative_to(site / "torch.libs")}
    candidates = own or loaded
    if len(candidates) != 1:
        return None
    try:
        function = ctypes.CDLL(str(candidates.pop())).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function
