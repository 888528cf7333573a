"""Rows of 8-bit floats in plain PyTorch, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 448.0
"""The largest e4m3 number."""


class Rows(NamedTuple):
    """values: float8_e4m3fn [R, C]; scales: float32 [R, 1], by which a row's values are multiplied."""

    values: Tensor
    scales: Tensor

    def wide(self) -> Tensor:
        """The values times their scales, float32 [R, C]."""
        return self.values.float() * self.scales


def quantized(x: Tensor) -> Rows:
    """Rounds the rows of `[R, C]`, of any floating dtype. A row that has NaN or infinity becomes NaN."""
    wide = x.float()
    scales = wide.abs().amax(1, keepdim=True).clamp(min=1e-30) / LARGEST
    return Rows((wide / scales).to(torch.float8_e4m3fn), scales)
