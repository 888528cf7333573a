"""Activations on a GPU, in Triton: one pass over the values, where PyTorch's operations one by one take six or seven.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Channels of a program."""


@triton.jit
def _kernel(x, y, CHANNELS: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Some channels of a row. The number of rows is no argument, so all batches have one machine code."""
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = tl.program_id(0).to(tl.int64) * CHANNELS + column
    value = tl.load(x + place, mask=column < CHANNELS, other=0.0).to(tl.float32)
    if GELU:
        result = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    else:
        result = value / (1.0 + tl.exp2(value * -1.4426950408889634))
    tl.store(y + place, result.to(y.dtype.element_ty), mask=column < CHANNELS)


def silu(x: Tensor) -> Tensor:
    """See `activations.silu`; any float but float64."""
    return _activated(x, gelu=False)


def gelu(x: Tensor) -> Tensor:
    """See `activations.gelu`; any float but float64."""
    return _activated(x, gelu=True)


def _activated(x: Tensor, *, gelu: bool) -> Tensor:
    x = x.contiguous()
    y, channels = torch.empty_like(x), x.shape[-1] if x.ndim else 1
    if x.numel():
        grid = x.numel() // channels, triton.cdiv(channels, BLOCK)
        _kernel[grid](x, y, CHANNELS=channels, GELU=gelu, BLOCK=BLOCK, num_warps=4)
    return y
