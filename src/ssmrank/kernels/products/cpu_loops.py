"""Products for CPUs, compiled by numba; called by `cpu`.

The weight is in panels of `PANEL` outputs, each `[K, PANEL]`. Each sum goes through k = 0, 1, … in one register. The
arguments of a task are integers: addresses of float32 memory, strides in bytes, counts. A task is a range of rows.
"""

from __future__ import annotations

from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.compiled import loop
from ssmrank.kernels.simd.tiles import multiply
from ssmrank.kernels.simd.vectors import BYTES, arguments, next_task

PANEL = 4 * LANES
"""Outputs of a panel."""


_product_arguments = arguments(8)


@loop(_product_arguments)
def product(table: int) -> None:
    """Writes the rows from `first` to before `last` of x weightᵀ; y has `columns`, a multiple of 16, in a row."""
    task = next_task(table)
    while task != 0:
        first, last, x, x_stride, panels, depth, columns, y = _product_arguments(task)
        for column in range(0, columns, PANEL):
            vectors = min(PANEL, columns - column) // LANES
            source, target = x + first * x_stride, y + 4 * (first * columns + column)
            panel = panels + 4 * column * depth
            multiply(source, x_stride, 4, panel, 4 * BYTES, target, 4 * columns, last - first, vectors, depth, 0)
        task = next_task(table)
