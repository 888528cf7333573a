"""Rows of channels as kernels read and launch over them: one program takes a whole row."""

from __future__ import annotations

import triton
from torch import Tensor


def dense(x: Tensor) -> Tensor:
    """x with its channels, the last dimension, side by side; its rows may be strided."""
    return x if x.stride(-1) == 1 else x.contiguous()


def launch(size: int, each: int = 8) -> dict[str, int]:
    """Options for rows of so many channels: `each` a thread, until a program is 16 warps."""
    block = triton.next_power_of_2(size)
    return {"BLOCK": block, "num_warps": min(max(block // (32 * each), 1), 16)}
