"""Tiles of a matrix product whose sums stay in registers: a vector for each row and 16 columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.compiled import njit
from ssmrank.kernels.simd.vectors import (
    BYTES,
    FLOAT,
    VECTOR,
    constant,
    fused,
    intrinsic,
    load_scalar,
    spread,
    store_scalar,
)

WIDE_REGISTERS = bool(get_host_cpu_features().get("avx512f", False))
"""Whether a vector is one register, of which there are 32. Otherwise it takes two or more of 16 registers. The sums of
a tile of four by four vectors then do not fit into registers, and take three times as long in memory."""


ADD = 2
"""A tile's `accumulate` where its sums start from zero and are then added to c, not continued from it."""


def _tile(rows: int, vectors: int) -> Any:
    @intrinsic
    def tile(
        typingctx: Any,
        a: Any,
        a_row: Any,
        a_step: Any,
        b: Any,
        b_step: Any,
        c: Any,
        c_row: Any,
        depth: Any,
        accumulate: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            a, a_row, a_step, b, b_step, c, c_row, depth, accumulate = args

            def at(base: Any, *offsets: Any) -> Any:
                for offset in offsets:
                    base = builder.add(base, offset)
                return base

            def times(value: Any, count: int) -> Any:
                return builder.mul(value, ir.Constant(ir.IntType(64), count))

            def vector_at(address: Any) -> Any:
                return builder.inttoptr(address, VECTOR.as_pointer())

            places = [
                [at(c, times(c_row, row), ir.Constant(ir.IntType(64), BYTES * column)) for column in range(vectors)]
                for row in range(rows)
            ]
            sums = [[cgutils.alloca_once_value(builder, constant(0.0)) for _ in line] for line in places]
            # alloca_once_value sets the variables only once, at the function's entry, so they are set again here.
            for line, targets in zip(sums, places, strict=True):
                for variable, _ in zip(line, targets, strict=True):
                    builder.store(constant(0.0), variable)
            with builder.if_then(builder.icmp_signed("==", accumulate, ir.Constant(ir.IntType(64), 1))):
                for line, targets in zip(sums, places, strict=True):
                    for variable, target in zip(line, targets, strict=True):
                        builder.store(builder.load(vector_at(target), align=4), variable)
            with cgutils.for_range(builder, depth) as loop:
                b_place = at(b, builder.mul(loop.index, b_step))
                a_place = at(a, builder.mul(loop.index, a_step))
                line_b = [
                    builder.load(vector_at(at(b_place, ir.Constant(ir.IntType(64), BYTES * column))), align=4)
                    for column in range(vectors)
                ]
                for row in range(rows):
                    address = builder.inttoptr(at(a_place, times(a_row, row)), FLOAT.as_pointer())
                    factor = spread(builder, builder.load(address, align=4))
                    for column in range(vectors):
                        variable = sums[row][column]
                        builder.store(fused(builder, factor, line_b[column], builder.load(variable)), variable)
            with builder.if_then(builder.icmp_signed("==", accumulate, ir.Constant(ir.IntType(64), ADD))):
                for line, targets in zip(sums, places, strict=True):
                    for variable, target in zip(line, targets, strict=True):
                        before = builder.load(vector_at(target), align=4)
                        builder.store(builder.fadd(before, builder.load(variable)), variable)
            for line, targets in zip(sums, places, strict=True):
                for variable, target in zip(line, targets, strict=True):
                    builder.store(builder.load(variable), vector_at(target), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return tile


tile_4x4, tile_4x1, tile_1x4, tile_1x1 = _tile(4, 4), _tile(4, 1), _tile(1, 4), _tile(1, 1)
"""tile_RxV(a, a_row, a_step, b, b_step, c, c_row, depth, accumulate): R rows of V vectors of a matrix product.

c[r, :] = (c[r, :] if accumulate else 0) + sum over k < depth of a[r, k] · b[k, :], with the sums in registers, where
accumulate is 0, 1 or `ADD`. a, b and c are addresses; `*_row` and `*_step` are strides in bytes, of rows and of k.
"""


@njit
def multiply(
    a: int,
    a_row: int,
    a_step: int,
    b: int,
    b_step: int,
    c: int,
    c_row: int,
    rows: int,
    vectors: int,
    depth: int,
    accumulate: int,
) -> None:
    """c = a b, or c += a b: `rows` rows of `vectors` vectors, in tiles (see `tile_4x4`). Each sum is in order of k."""
    row = 0
    while row < rows:
        full = row + 4 <= rows
        column = 0
        while column < vectors:
            source, target = b + column * BYTES, c + row * c_row + column * BYTES
            line = a + row * a_row
            if WIDE_REGISTERS and column + 4 <= vectors:
                if full:
                    tile_4x4(line, a_row, a_step, source, b_step, target, c_row, depth, accumulate)
                else:
                    tile_1x4(line, a_row, a_step, source, b_step, target, c_row, depth, accumulate)
                column += 4
            else:
                if full:
                    tile_4x1(line, a_row, a_step, source, b_step, target, c_row, depth, accumulate)
                else:
                    tile_1x1(line, a_row, a_step, source, b_step, target, c_row, depth, accumulate)
                column += 1
        row += 4 if full else 1


@njit
def transpose(source: int, stride: int, target: int, rows: int, columns: int, target_stride: int) -> None:
    """Writes the transpose; its rows are filled up with zeros to whole vectors."""
    filled = (rows + LANES - 1) // LANES * LANES
    for column in range(columns):
        for row in range(rows):
            store_scalar(target + column * target_stride + 4 * row, load_scalar(source + row * stride + 4 * column))
        for row in range(rows, filled):
            store_scalar(target + column * target_stride + 4 * row, np.float32(0.0))
