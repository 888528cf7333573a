from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
import torch
from numba import cfunc, types

from ssmrank.kernels import threads
from ssmrank.kernels.simd import arguments, load_scalar, next_task, store_scalar

_read = arguments(2)


@cfunc(types.void(types.int64))
def add_to(table: int) -> None:
    task = next_task(table)
    while task != 0:
        target, amount = _read(task)
        store_scalar(target, load_scalar(target) + np.float32(amount))
        task = next_task(table)


def totals(count: int) -> list[float]:
    sums = np.zeros(count, dtype=np.float32)
    threads.run_tasks(add_to, [(sums.ctypes.data + 4 * index, index + 1) for index in range(count)])
    return sums.tolist()


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("openmp", [True, False])
def test_each_task_runs_once(count: int, number: int, openmp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not openmp:
        monkeypatch.setattr(threads, "_gomp_parallel", lambda: None)
    torch.set_num_threads(number)
    assert totals(count) == [float(index + 1) for index in range(count)]


def test_the_loops_run_on_the_threads_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    found = threads._gomp_parallel()
    if found is None:
        pytest.skip("torch has no OpenMP library with GOMP_parallel here")
    calls: Counter[int] = Counter()

    def counted(function: int, data: int, number: int, flags: int) -> None:
        calls[number] += 1
        found(function, data, number, flags)

    monkeypatch.setattr(threads, "_gomp_parallel", lambda: counted)
    totals(3)
    assert calls == {2: 1}


def test_a_forked_child_starts_threads_of_its_own() -> None:
    torch.ones(1 << 20).sum()
    assert totals(10) == [float(index + 1) for index in range(10)]
    child = os.fork()
    if child == 0:
        os._exit(0 if totals(10) == [float(index + 1) for index in range(10)] else 1)
    assert os.waitpid(child, 0)[1] == 0
