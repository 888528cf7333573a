"""The causal convolution of sequences that continue others of their batch, on a GPU, in Triton; forward only.

`causal_conv1d` takes an initial state only where no sequences are packed. Here each token looks up the tokens before
it, which may be anywhere in the batch for the first few tokens of a sequence.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmrank.kernels.gpu.rows import dense
from ssmrank.kernels.packing import sequence_index

TOKENS = 32
CHANNELS = 128
"""Of a program."""


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    x, weight, bias, starts, sequences, history, y, x_stride, tokens, channels,
    W: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real, inside = t < tokens, c < channels
    sequence = tl.load(sequences + t, mask=real, other=0)
    past = t - tl.load(starts + sequence, mask=real, other=0)
    total = tl.zeros([TOKENS, CHANNELS], tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    for back in tl.static_range(W):
        before = tl.load(history + sequence * (W - 1) + back - past - 1, mask=real & (back > past), other=-1)
        place = tl.where(back > past, before, t - back)
        known = (real & (place >= 0))[:, None] & inside[None, :]
        value = tl.load(x + place[:, None] * x_stride + c[None, :], mask=known, other=0.0).to(tl.float32)
        tap = tl.load(weight + c * W + W - 1 - back, mask=inside, other=0.0).to(tl.float32)
        total += value * tap[None, :]
    if SILU:
        total = total / (1.0 + tl.exp(-total))
    mask = real[:, None] & inside[None, :]
    tl.store(y + t[:, None] * channels + c[None, :], total.to(y.dtype.element_ty), mask=mask)


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor, silu: bool, history: Tensor
) -> Tensor:
    """See `packed_causal_conv1d`; computed in float32, in x's dtype."""
    x = dense(x)
    weight, history = weight.contiguous(), history.contiguous()
    starts = cu_seqlens.to(x.device, torch.int64).contiguous()
    (tokens, channels), width = x.shape, weight.shape[1]
    y = x.new_empty(tokens, channels)
    _kernel[triton.cdiv(tokens, TOKENS), triton.cdiv(channels, CHANNELS)](
        x, weight, bias, starts, sequence_index(starts, tokens), history, y, x.stride(0), tokens, channels,
        W=width, TOKENS=TOKENS, CHANNELS=CHANNELS, HAS_BIAS=bias is not None, SILU=silu, num_warps=4,
    )  # fmt: skip
    return y
