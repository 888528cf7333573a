"""Matrix products of 8-bit floats (e4m3: Micikevicius et al. 2022), with a scale for each row of either factor.

A row is scaled so that its largest magnitude is 448, the largest number of e4m3, and rounded to three bits of mantissa.
The error is 2.6% of a value, and on average 3.7% of a product of normally distributed factors. GPUs since Ada and
Hopper multiply 8-bit floats at up to twice the rate of bfloat16; elsewhere the values are multiplied in float32.
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
"""GPUs need the length of the factors' rows and the number of output channels to be multiples of this."""


def quantized(x: Tensor) -> Rows:
    """Rounds the rows of [R, C], of any floating dtype. A row that has NaN or infinity becomes NaN."""
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
            # Partial sums have 14 bits before they are added in float32. This is faster on Hopper, and the error is
            # smaller than that of rounding the result to bfloat16.
            use_fast_accum=True,
        )
    y = x.wide() @ weight.wide().T
    return (y if bias is None else y + bias.float()).bfloat16()
