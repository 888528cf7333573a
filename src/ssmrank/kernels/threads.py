"""Runs compiled functions that release the GIL on as many threads as torch is set to use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

_pools: dict[int, ThreadPoolExecutor] = {}

# A forked child (a data loader's worker) has none of the parent's threads and must start its own.
os.register_at_fork(after_in_child=_pools.clear)


def run_tasks(function: Callable[..., object], tasks: Iterable[tuple[float, ...]]) -> None:
    """Calls `function(*task)` for each task; returns when all are done, and raises what one of them raised.

    Tasks must not write to the same memory. Threads: `torch.get_num_threads()`.
    """
    tasks = list(tasks)
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        for task in tasks:
            function(*task)
        return
    pool = _pools.get(threads)
    if pool is None:
        pool = _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="ssmrank-kernels")
    for future in [pool.submit(function, *task) for task in tasks]:
        future.result()
