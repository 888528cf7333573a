"""Matrix products of 8-bit floats (e4m3: Micikevicius et al. 2022), a scale for each row of either factor.

A row is divided by what makes its largest magnitude 448, the largest number of e4m3, and rounded to three bits of
mantissa: 2.6% of error for a value, on average 3.7% of a product of normally distributed factors. GPUs since Ada and
Hopper multiply them at up to twice the rate of bfloat16; anywhere else the factors' values are multiplied in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation
from ssmrank.kernels.float8 import reference
from ssmrank.kernels.float8.reference import Rows

__all__ = ["MULTIPLE", "Rows", "product", "quantized"]

MULTIPLE = 16
"""A GPU's products take factors whose rows, and whose number of output channels, are multiples of this."""


def quantized(x: Tensor) -> Rows:
    """The rows of [R, C], of any floating dtype, rounded. A row with NaN or infinity in it holds NaN."""
    if dispatch.quantization(x) is Implementation.GPU:
        from ssmrank.kernels.float8 import gpu

        return gpu.quantized(x)
    return reference.quantized(x)


def product(x: Rows, weight: Rows, bias: Tensor | None = None) -> Tensor:
    """x weightᵀ + bias, bfloat16 [R, N].

    Args:
        x: R rows of C, C a multiple of 16.
        weight: N rows of C, N a multiple of 16.
        bias: bfloat16 `[N]` or None.
    """
    if dispatch.multiplies_float8(x.values.device):
        return torch._scaled_mm(
            x.values,
            weight.values.T,
            scale_a=x.scales,
            scale_b=weight.scales.T,
            bias=bias,
            out_dtype=torch.bfloat16,
            # Sums of 14 bits between additions in float32: faster on Hopper, and less of an error than bfloat16's
            # rounding of the result.
            use_fast_accum=True,
        )
    y = x.wide() @ weight.wide().T
    return (y if bias is None else y + bias.float()).bfloat16()
