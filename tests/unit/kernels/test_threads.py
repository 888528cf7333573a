from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from ssmrank.kernels.causal_conv import packed_causal_conv1d
from ssmrank.kernels.norms import gated_rms_norm
from ssmrank.kernels.selective_scan import ScanInputs, packed_selective_scan
from ssmrank.kernels.simd import threads
from ssmrank.kernels.simd.compiled import loop
from ssmrank.kernels.simd.vectors import arguments, load_scalar, next_task, store_scalar
from ssmrank.kernels.ssd import SSDInputs, packed_ssd

_read = arguments(2)


@loop(_read)
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


@pytest.mark.parametrize("row", [(1,), (1, 2, 3)])
def test_a_task_of_another_width_than_the_loop_reads_is_refused(row: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"add_to takes tasks of 2 integers, one has {len(row)}"):
        threads.run_tasks(add_to, [(1, 2), row])


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


def bytes_of_gradients(operation: Callable[..., Tensor], tensors: Sequence[Tensor], number: int) -> list[bytes]:
    torch.set_num_threads(number)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    y = operation(*leaves)
    upstream = torch.linspace(-1, 1, y.numel()).view(y.shape)
    return [x.detach().numpy().tobytes() for x in (y, *torch.autograd.grad(y, leaves, upstream))]


@pytest.mark.parametrize("lengths", [[37], [100, 30, 7], [40] * 9])
@pytest.mark.parametrize("name", ["ssd", "selective scan", "convolution", "gated norm"])
def test_the_number_of_threads_changes_no_byte(name: str, lengths: list[int]) -> None:
    tokens, starts = sum(lengths), torch.tensor([0, *np.cumsum(lengths)])
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def ssd(*inputs: Tensor) -> Tensor:
        return packed_ssd(SSDInputs(*inputs), starts, chunk_size=64)

    def selective_scan(*inputs: Tensor) -> Tensor:
        return packed_selective_scan(ScanInputs(*inputs), starts)

    operation: Callable[..., Tensor]
    if name == "ssd":
        tensors = [random(tokens, 8, 16), random(tokens, 8), -random(8).exp(), *(random(tokens, 1, 16) for _ in "BC")]
        tensors += [random(8), random(8)]
        operation = ssd
    elif name == "selective scan":
        tensors = [*(random(tokens, 64) for _ in range(2)), -random(64, 4).exp(), *(random(tokens, 4) for _ in "BC")]
        tensors += [random(64), random(tokens, 64), random(64)]
        operation = selective_scan
    elif name == "convolution":
        tensors = [random(tokens, 64), random(64, 4), random(64)]
        operation = partial(packed_causal_conv1d, cu_seqlens=starts)
    else:
        tensors = [random(tokens, 64), random(tokens, 64), random(64)]
        operation = partial(gated_rms_norm, eps=1e-5)
    one, *others = (bytes_of_gradients(operation, tensors, number) for number in (1, 2, 8))
    assert all(other == one for other in others)
