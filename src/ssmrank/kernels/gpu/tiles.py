"""Loads, stores and fast functions for kernels whose programs hold rows of a few tokens in registers, in Triton.

A row is a tensor of one token's channels, float32; the rows of a tile are a tuple.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


def may_use_ptx(tensor: torch.Tensor) -> bool:
    """Whether kernels over this tensor use NVIDIA's own instructions; it is the kernels' argument PTX.

    They load four values at once, sum over a warp's lanes, and take approximate exponentials and reciprocals.
    """
    return tensor.is_cuda and torch.version.hip is None


@triton.jit
def exp2(x, PTX: tl.constexpr):  # type: ignore[no-untyped-def]
    """2^x. The plain version takes three more instructions to return denormal numbers, which may be zeros here."""
    if PTX:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.exp2(x)


@triton.jit
def reciprocal(x, PTX: tl.constexpr):  # type: ignore[no-untyped-def]
    """1 / x; the fast one is off by a unit in the last place."""
    if PTX:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / x


@triton.jit
def sigmoid(x, PTX: tl.constexpr):  # type: ignore[no-untyped-def]
    """1 / (1 + e^-x)."""
    return reciprocal(1.0 + exp2(-x * LOG2_E, PTX), PTX)


@triton.jit
def load_rows(pointers, stride, count, mask, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The rows of a tile in their dtype; `pointers` is to the channels of the first, and rows from `count` on are zero.

    Pointers advance from row to row, so that the compiler does not compute and keep TILE offsets.
    """
    rows = ()
    for t in tl.static_range(TILE):
        rows = rows + (tl.load(pointers, mask=mask & (t < count), other=0.0),)
        pointers += stride
    return rows


@triton.jit
def store_rows(pointers, stride, count, mask, rows, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Stores the first `count` rows, at most TILE; `pointers` is to the channels of the first."""
    for t in tl.static_range(TILE):
        tl.store(pointers, rows[t].to(pointers.dtype.element_ty), mask=mask & (t < count))
        pointers += stride
