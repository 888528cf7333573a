"""Products for CPUs, compiled by numba; called by `cpu`.

The weight is in panels of `PANEL` outputs, each `[K, PANEL]`. Each sum goes through k in parts of at most `step`: a
part is added up in a register, from zero, and then to the result. The arguments of a task are integers: addresses of
float32 memory (0: absent), strides in bytes, counts. A task is a range of rows.
"""

from __future__ import annotations

from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.compiled import loop
from ssmrank.kernels.simd.tiles import ADD, multiply
from ssmrank.kernels.simd.vectors import BYTES, arguments, load, next_task, store

PANEL = 4 * LANES
"""Outputs of a panel."""


_product_arguments = arguments(10)


@loop(_product_arguments)
def product(table: int) -> None:
    """Writes the rows `first` to before `last` of x weightᵀ + bias; y has `columns`, a multiple of 16, in a row."""
    task = next_task(table)
    while task != 0:
        first, last, x, x_stride, panels, depth, step, columns, bias, y = _product_arguments(task)
        row_bytes = 4 * columns
        for column in range(0, columns, PANEL):
            vectors = min(PANEL, columns - column) // LANES
            source, target = x + first * x_stride, y + first * row_bytes + 4 * column
            panel = panels + 4 * column * depth
            if bias != 0:
                for vector in range(0, vectors * BYTES, BYTES):
                    offset = load(bias + 4 * column + vector)
                    for row in range(last - first):
                        store(target + row * row_bytes + vector, offset)
            for start in range(0, depth, step):
                accumulate = ADD if bias != 0 or start != 0 else 0
                part = panel + start * 4 * PANEL
                length = min(step, depth - start)
                multiply(
                    source + 4 * start, x_stride, 4, part, 4 * PANEL, target, row_bytes, last - first, vectors, length,
                    accumulate,
                )  # fmt: skip
        task = next_task(table)
