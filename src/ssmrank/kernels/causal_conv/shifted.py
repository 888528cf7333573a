"""The causal convolution in PyTorch, any device and floating dtype: a shifted product for each column of the filter."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmrank.kernels.packing import sequence_index


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cu_seqlens: Tensor,
    silu: bool,
    history: Tensor | None,
) -> Tensor:
    """See `packed_causal_conv1d`; computed in float32, or float64 if x is."""
    own = sequence_index(cu_seqlens.to(x.device), x.shape[0])
    width = weight.shape[1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide, weight = x.to(dtype), weight.to(dtype)
    y = wide * weight[:, -1]
    for shift in range(1, min(width, x.shape[0])):
        same = (own[shift:] == own[:-shift])[:, None]
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
    return (torch.nn.functional.silu(y) if silu else y).to(x.dtype)
