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
) -> Tensor:
    """Each channel convolved with its own filter over its sequence's present and past tokens.

    Args:
        x: `[T, C]`, sequences laid end to end; rows may lie apart (a slice of a projection needs no copy).
        weight: `[C, W]`; the last column weighs the present token.
        bias: `[C]` or None.
        cu_seqlens: int64 `[S + 1]`; what lies before a sequence's start counts as zero.
        activation: "silu" or None.
        seq_idx: int32 `[T]`, the sequence of each token; worked out where the CUDA kernel needs it and it is None.

    Returns:
        `[T, C]` in x's dtype, computed in float32 (float64 if x is). Differentiable in x, weight and bias.
    """
    if x.is_cuda and x.dtype != torch.float64 and is_available("triton"):
        from ssmrank.kernels import triton_causal_conv

        if triton_causal_conv.supports(weight.shape[1]):
            return triton_causal_conv.causal_conv1d(x, weight, bias, cu_seqlens, activation == "silu")
    if x.is_cuda and is_available("causal_conv1d") and weight.shape[1] in (2, 3, 4) and x.shape[1] % 8 == 0:
        return _cuda(x, weight, bias, cu_seqlens, activation, seq_idx)
    if x.device.type == "cpu" and x.dtype != torch.float64:
        from ssmrank.kernels.causal_conv_numba import causal_conv1d

        single = None if bias is None else bias.float()
        return causal_conv1d(x.float(), weight.float(), single, cu_seqlens, activation == "silu").to(x.dtype)
    return _shifted(x, weight, bias, cu_seqlens, activation, seq_idx)


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
    x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor, activation: str | None, seq_idx: Tensor | None
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
    if bias is not None:
        y = y + bias.to(dtype)
    return (torch.nn.functional.silu(y) if activation == "silu" else y).to(x.dtype)
