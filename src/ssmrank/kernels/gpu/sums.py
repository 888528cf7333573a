"""Sums the partial sums of programs, in an order that depends on shapes alone, on a GPU, in Triton.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 64
COLUMNS = 32
"""Of what a program adds at a time."""


@triton.jit
def _add_columns(parts, out, block, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & inside[None, :]
        total += tl.load(parts + row[:, None].to(tl.int64) * columns + column[None, :], mask=mask, other=0.0)
    tl.store(out + column, tl.sum(total, axis=0), mask=inside)


@triton.jit(do_not_specialize=["rows_a", "rows_b", "rows_c"])
def _columns_kernel(  # type: ignore[no-untyped-def]
    a, b, c, out, rows_a, rows_b, rows_c, columns_a, columns_b, columns_c,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """Sums the rows of up to three matrices; a program takes some columns of one of them."""
    block = tl.program_id(0)
    blocks = tl.cdiv(columns_a, COLUMNS)
    if block < blocks:
        _add_columns(a, out, block, rows_a, columns_a, ROWS, COLUMNS)
    if COUNT > 1:
        block -= blocks
        blocks = tl.cdiv(columns_b, COLUMNS)
        if (block >= 0) & (block < blocks):
            _add_columns(b, out + columns_a, block, rows_b, columns_b, ROWS, COLUMNS)
    if COUNT > 2:
        block -= blocks
        if block >= 0:
            _add_columns(c, out + columns_a + columns_b, block, rows_c, columns_c, ROWS, COLUMNS)


def add_columns(*parts: Tensor) -> tuple[Tensor, ...]:
    """The sums over rows of up to three matrices, contiguous and in float32, by one kernel."""
    sizes = [part.shape[1] for part in parts]
    out = parts[0].new_empty(sum(sizes))
    rest = [None] * (3 - len(parts))
    _columns_kernel[(sum(triton.cdiv(size, COLUMNS) for size in sizes),)](
        *parts, *rest, out, *(len(part) for part in parts), *(0 for _ in rest), *sizes, *(0 for _ in rest),
        ROWS=ROWS, COLUMNS=COLUMNS, COUNT=len(parts), num_warps=4,
    )  # fmt: skip
    return torch.split(out, sizes)


@triton.jit
def _parts_kernel(  # type: ignore[no-untyped-def]
    a, b, out_a, out_b, count, part_size, row_size, stride_a, stride_b, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < row_size
    parts, target = a + row * row_size, out_a + row * stride_a
    if tl.program_id(2) == 1:
        parts, target = b + row * row_size, out_b + row * stride_b
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(0, count):
        total += tl.load(parts + column, mask=inside, other=0.0)
        parts += part_size
    tl.store(target + column, total.to(out_a.dtype.element_ty), mask=inside)


def add_parts(a: Tensor, b: Tensor, out_a: Tensor, out_b: Tensor) -> None:
    """Writes sums of parts, both contiguous float32 `[K, rows, ...]`, to `[rows, ...]`, whose rows may be strided."""
    count, rows = a.shape[:2]
    if rows:
        size = a.stride(1)
        block = min(triton.next_power_of_2(size), 1024)
        _parts_kernel[rows, triton.cdiv(size, block), 2](
            a, b, out_a, out_b, count, a.stride(0), size, out_a.stride(0), out_b.stride(0), BLOCK=block
        )
