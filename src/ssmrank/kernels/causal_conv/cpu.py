"""The causal convolution on a CPU as a differentiable function: numba's loops under torch's autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels.causal_conv import cpu_loops as loops
from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.threads import run_tasks

TASK = 256
"""Tokens in a task. It is fixed, so that the sums of the gradients do not depend on the number of threads."""


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor, silu: bool, history: Tensor | None = None
) -> Tensor:
    """See `packed_causal_conv1d`; every floating tensor is float32 on the CPU. Not differentiable with a history."""
    channels = x.shape[1]
    padding = -channels % LANES
    if padding:
        x, weight = torch.nn.functional.pad(x, (0, padding)), torch.nn.functional.pad(weight, (0, 0, 0, padding))
        bias = None if bias is None else torch.nn.functional.pad(bias, (0, padding))
    starts = cu_seqlens.to("cpu", torch.int64).contiguous()
    if history is None:
        y: Tensor = _CausalConv.apply(x, weight, bias, starts, silu)
    else:
        y = _forward(x, weight, bias, starts, silu, history.contiguous())
    return y[:, :channels] if padding else y


def _filters(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    return weight.t().contiguous(), weight.new_zeros(weight.shape[0]) if bias is None else bias.contiguous()


def _spans(tokens: int) -> list[tuple[int, int]]:
    return [(first, min(first + TASK, tokens)) for first in range(0, tokens, TASK)]


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, starts: Tensor, silu: bool, history: Tensor | None
) -> Tensor:
    x = x if x.stride(1) == 1 else x.contiguous()
    taps, offset = _filters(weight, bias)
    tokens, channels = x.shape
    y = x.new_empty(tokens, channels)
    rest = (
        *(x.data_ptr(), 4 * x.stride(0), taps.data_ptr(), offset.data_ptr(), y.data_ptr(), channels, len(taps)),
        *(int(silu), 0 if history is None else history.data_ptr()),
    )
    run_tasks(loops.conv_forward, [(*span, starts.data_ptr(), *rest) for span in _spans(tokens)])
    return y


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, starts: Tensor, silu: bool) -> Tensor:
        x = x if x.stride(1) == 1 else x.contiguous()
        ctx.save_for_backward(x, weight, bias, starts)
        ctx.silu = silu
        return _forward(x, weight, bias, starts, silu, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, starts = ctx.saved_tensors
        taps, offset = _filters(weight, bias)
        tokens, channels = x.shape
        grad_y = grad_y if grad_y.stride(1) == 1 else grad_y.contiguous()
        spans = _spans(tokens)
        grad_x = x.new_empty(tokens, channels)
        # Each task has its own sums, so that threads do not add to the same memory.
        grad_taps = x.new_zeros(len(spans), *taps.shape)
        grad_offset = x.new_zeros(len(spans), channels)
        rest = (
            *(starts.data_ptr(), tokens, x.data_ptr(), 4 * x.stride(0), taps.data_ptr(), offset.data_ptr()),
            *(grad_y.data_ptr(), 4 * grad_y.stride(0), grad_x.data_ptr(), channels, len(taps), int(ctx.silu)),
        )
        run_tasks(
            loops.conv_backward,
            [
                (*span, sums.data_ptr(), offsets.data_ptr(), *rest)
                for span, sums, offsets in zip(spans, grad_taps, grad_offset, strict=True)
            ],
        )
        grad_bias = None if bias is None else grad_offset.sum(0)
        return grad_x, grad_taps.sum(0).t(), grad_bias, None, None
