"""Rows of channels for kernels in which one program processes a whole row."""

from __future__ import annotations

import triton
from torch import Tensor


def dense(x: Tensor) -> Tensor:
    """x with contiguous channels (the last dimension); its rows may be strided."""
    return x if x.stride(-1) == 1 else x.contiguous()


def launch(size: int, each: int = 8) -> dict[str, int]:
    """Launch options for rows of `channels`: `each` channels a thread, up to 16 warps a program."""
    block = triton.next_power_of_2(size)
    return {"BLOCK": block, "num_warps": min(max(block // (32 * each), 1), 16)}
