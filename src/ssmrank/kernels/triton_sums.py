"""Sums over what programs have each, in an order that depends on shapes alone, on a GPU, in Triton.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _parts_kernel(parts, out, count, part_size, row_size, stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < row_size
    parts += row * row_size + column
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(0, count):
        total += tl.load(parts, mask=inside, other=0.0)
        parts += part_size
    tl.store(out + row * stride + column, total.to(out.dtype.element_ty), mask=inside)


def add_parts(parts: Tensor, out: Tensor) -> None:
    """Writes the sum of `parts`, float32 `[K, rows, ...]`, to `out`, `[rows, ...]`, whose rows may lie apart."""
    count, rows = parts.shape[:2]
    size = parts[0].numel() // max(rows, 1)
    if rows:
        _parts_kernel[rows, triton.cdiv(size, 1024)](
            parts, out, count, parts.stride(0), size, out.stride(0), BLOCK=min(triton.next_power_of_2(size), 1024)
        )
