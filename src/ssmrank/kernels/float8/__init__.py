"""Matrix products of 8-bit floats (e4m3: Micikevicius et al. 2022), a scale for each row of either factor.

A row is divided by what makes its largest magnitude 448, the largest number of e4m3, and rounded to three bits of
mantissa: 2.6% of error for a value, on average 3.7% of a product of normally distributed factors. GPUs since Ada and
Hopper multiply them at up to twice the rate of bfloat16; anywhere else the factors' values are multiplied in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssmrank.kernels.packing import is_available

LARGEST = 448.0
"""The largest e4m3 number."""

MULTIPLE = 16
"""A GPU's products take factors whose rows, and whose number of output channels, are multiples of this."""

SMALLEST_CAPABILITY = (8, 9)
"""NVIDIA's compute capability from which on GPUs have such products."""


class Rows(NamedTuple):
    """values: float8_e4m3fn [R, C]; scales: float32 [R, 1], by which a row's values are multiplied."""

    values: Tensor
    scales: Tensor

    def wide(self) -> Tensor:
        """What the rows stand for, float32 [R, C]."""
        return self.values.float() * self.scales


def multiplies_float8(device: torch.device) -> bool:
    """Whether a device has products of 8-bit floats."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= SMALLEST_CAPABILITY


def quantized(x: Tensor) -> Rows:
    """The rows of [R, C], of any floating dtype, rounded. A row with NaN or infinity in it holds NaN."""
    if x.is_cuda and is_available("triton"):
        from ssmrank.kernels.float8 import gpu as triton_float8
        from ssmrank.kernels.gpu import rows as triton_rows

        if x.shape[1] <= triton_rows.WIDEST:
            return triton_float8.quantized(x)
    return quantized_reference(x)


def quantized_reference(x: Tensor) -> Rows:
    """The same in plain PyTorch, on any device."""
    wide = x.float()
    scales = wide.abs().amax(1, keepdim=True).clamp(min=1e-30) / LARGEST
    return Rows((wide / scales).to(torch.float8_e4m3fn), scales)


def product(x: Rows, weight: Rows, bias: Tensor | None = None) -> Tensor:
    """x weightᵀ + bias, bfloat16 [R, N].

    Args:
        x: R rows of C, C a multiple of 16.
        weight: N rows of C, N a multiple of 16.
        bias: bfloat16 `[N]` or None.
    """
    if multiplies_float8(x.values.device):
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
