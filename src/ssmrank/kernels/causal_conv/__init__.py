"""The short causal convolution before Mamba's scan, over packed sequences."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation


def packed_causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cu_seqlens: Tensor,
    *,
    activation: Literal["silu"] | None = None,
    history: Tensor | None = None,
) -> Tensor:
    """Convolves each channel with its own filter over its sequence's present and past tokens.

    Args:
        x: `[T, C]`, sequences laid end to end; rows may be strided (a slice of a projection needs no copy).
        weight: `[C, W]`; the last column weighs the present token.
        bias: `[C]` or None.
        cu_seqlens: int64 `[S + 1]`; tokens before a sequence's start count as zero.
        activation: "silu" or None.
        history: int64 `[S, W - 1]`, where sequences continue others of the batch: the tokens before each sequence's
            start, nearest first; -1 where there are no more. None: no sequence continues another.

    Returns:
        `[T, C]` in x's dtype, computed in float32 (float64 if x is). Differentiable in x, weight and bias, but not on a
        CPU in float32 with a history.
    """
    silu = activation == "silu"
    implementation = dispatch.causal_conv(x, weight.shape[1], continues=history is not None)
    if implementation is Implementation.GPU:
        from ssmrank.kernels.causal_conv import gpu, gpu_continued

        if history is not None:
            return gpu_continued.causal_conv1d(x, weight, bias, cu_seqlens, silu, history)
        return gpu.causal_conv1d(x, weight, bias, cu_seqlens, silu)
    if implementation is Implementation.CPU:
        from ssmrank.kernels.causal_conv import cpu

        single = None if bias is None else bias.float()
        return cpu.causal_conv1d(x.float(), weight.float(), single, cu_seqlens, silu, history).to(x.dtype)
    from ssmrank.kernels.causal_conv import shifted

    return shifted.causal_conv1d(x, weight, bias, cu_seqlens, silu, history)
