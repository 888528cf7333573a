"""The short causal convolution in front of Mamba's scan, over packed sequences."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ssmrank.kernels.packing import is_available, sequence_index


def packed_causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cu_seqlens: Tensor,
    *,
    activation: Literal["silu"] | None = None,
    seq_idx: Tensor | None = None,
    history: Tensor | None = None,
) -> Tensor:
    """Each channel convolved with its own filter over its sequence's present and past tokens.

    Args:
        x: `[T, C]`, sequences laid end to end; rows may lie apart (a slice of a projection needs no copy).
        weight: `[C, W]`; the last column weighs the present token.
        bias: `[C]` or None.
        cu_seqlens: int64 `[S + 1]`; what lies before a sequence's start counts as zero.
        activation: "silu" or None.
        seq_idx: int32 `[T]`, the sequence of each token; worked out where the CUDA kernel needs it and it is None.
        history: int64 `[S, W - 1]`, for sequences that continue others of the batch the tokens that stand before
            their start, the nearest first; -1 where there are no more. None: every sequence starts anew.

    Returns:
        `[T, C]` in x's dtype, computed in float32 (float64 if x is). Differentiable in x, weight and bias, but not on a
        CPU in float32 with a history.
    """
    if x.is_cuda and x.dtype != torch.float64 and is_available("triton"):
        from ssmrank.kernels.causal_conv import gpu as triton_causal_conv
        from ssmrank.kernels.causal_conv import gpu_forks as triton_conv_forks

        if history is not None:
            return triton_conv_forks.causal_conv1d(x, weight, bias, cu_seqlens, activation == "silu", history)
        if triton_causal_conv.supports(weight.shape[1]):
            return triton_causal_conv.causal_conv1d(x, weight, bias, cu_seqlens, activation == "silu")
    fits = weight.shape[1] in (2, 3, 4) and x.shape[1] % 8 == 0
    if history is None and x.is_cuda and fits and is_available("causal_conv1d"):
        return _cuda(x, weight, bias, cu_seqlens, activation, seq_idx)
    if x.device.type == "cpu" and x.dtype != torch.float64:
        from ssmrank.kernels.causal_conv.cpu import causal_conv1d

        single = None if bias is None else bias.float()
        y = causal_conv1d(x.float(), weight.float(), single, cu_seqlens, activation == "silu", history)
        return y.to(x.dtype)
    return _shifted(x, weight, bias, cu_seqlens, activation, seq_idx, history)


def _cuda(
    x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor, activation: str | None, seq_idx: Tensor | None
) -> Tensor:
    from causal_conv1d import causal_conv1d_fn

    if seq_idx is None:
        seq_idx = sequence_index(cu_seqlens.to(x.device), x.shape[0])
    if x.stride(1) != 1 or x.stride(0) % 8 or x.data_ptr() % 16:
        x = x.contiguous()
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    y = causal_conv1d_fn(x[None].transpose(1, 2), weight, bias, seq_idx=seq_idx[None], activation=activation)
    result: Tensor = y.transpose(1, 2)[0]
    return result


def _shifted(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cu_seqlens: Tensor,
    activation: str | None,
    seq_idx: Tensor | None,
    history: Tensor | None,
) -> Tensor:
    """In PyTorch on any device: one shifted product per column of the filter."""
    if seq_idx is None:
        seq_idx = sequence_index(cu_seqlens.to(x.device), x.shape[0])
    width = weight.shape[1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide, weight = x.to(dtype), weight.to(dtype)
    y = wide * weight[:, -1]
    for shift in range(1, min(width, x.shape[0])):
        same = (seq_idx[shift:] == seq_idx[:-shift])[:, None]
        past = torch.where(same, wide[:-shift], 0.0) * weight[:, width - 1 - shift]
        y = y + torch.nn.functional.pad(past, (0, 0, shift, 0))
    if history is not None:
        starts = cu_seqlens[:-1].to(x.device)
        lengths = cu_seqlens.to(x.device).diff()
        # Token `row` of a sequence reads the history's entry `back` through the tap `row + back + 1` before its own.
        for row in range(width - 1):
            for back in range(width - 1 - row):
                known = (history[:, back] >= 0) & (lengths > row)
                past = wide[history[known, back]] * weight[:, width - 2 - row - back]
                y = y.index_add(0, starts[known] + row, past)
    if bias is not None:
        y = y + bias.to(dtype)
    return (torch.nn.functional.silu(y) if activation == "silu" else y).to(x.dtype)
