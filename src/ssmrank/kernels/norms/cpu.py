"""Root-mean-square norms on a CPU as a differentiable function: numba's loops under torch's autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels.norms import cpu_loops as loops
from ssmrank.kernels.simd.threads import run_tasks

TASK = 128
"""Rows in a task. It is fixed, so that the sums of the gradients do not depend on the number of threads."""


def norm(x: Tensor, z: Tensor | None, weight: Tensor, eps: float, size: int) -> Tensor:
    """See `gated_rms_norm` and, where z is None, `rms_norm`; all tensors are float32, size a multiple of 16."""
    shape = x.shape
    rows = x.reshape(-1, shape[-1])
    y: Tensor = _Norm.apply(rows, None if z is None else z.reshape(rows.shape), weight.contiguous(), eps, size)
    return y.view(shape)


def _spans(rows: int) -> list[tuple[int, int]]:
    return [(first, min(first + TASK, rows)) for first in range(0, rows, TASK)]


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _place(x: Tensor | None) -> tuple[int, int]:
    return (0, 0) if x is None else (x.data_ptr(), 4 * x.stride(0))


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor | None, weight: Tensor, eps: float, size: int) -> Tensor:
        x, z = _rows(x), None if z is None else _rows(z)
        groups = x.shape[1] // size
        y = x.new_empty(x.shape)
        scales = x.new_empty(len(x), groups)
        epsilon = x.new_tensor(eps)
        rest = (
            *_place(x),
            *_place(z),
            weight.data_ptr(),
            y.data_ptr(),
            scales.data_ptr(),
            groups,
            size,
            epsilon.data_ptr(),
        )
        run_tasks(loops.norm_forward, [(*span, *rest) for span in _spans(len(x))])
        ctx.save_for_backward(x, z, weight, scales)
        ctx.size = size
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, z, weight, scales = ctx.saved_tensors
        grad_y = _rows(grad_y)
        spans = _spans(len(x))
        grad_x = x.new_empty(x.shape)
        grad_z = None if z is None else x.new_empty(x.shape)
        # Each task has its own sum, so that threads do not add to the same memory.
        grad_weight = x.new_zeros(len(spans), x.shape[1])
        rest = (
            *(*_place(x), *_place(z), weight.data_ptr(), scales.data_ptr(), *_place(grad_y), grad_x.data_ptr()),
            *(0 if grad_z is None else grad_z.data_ptr(), x.shape[1] // ctx.size, ctx.size),
        )
        run_tasks(
            loops.norm_backward,
            [(*span, sums.data_ptr(), *rest) for span, sums in zip(spans, grad_weight, strict=True)],
        )
        return grad_x, grad_z, grad_weight.sum(0), None, None
