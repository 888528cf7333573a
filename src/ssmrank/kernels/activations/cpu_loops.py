"""Activations' loops for CPUs, compiled by numba; called by `cpu`.

The error function is 7.1.26 of Abramowitz and Stegun (1964), whose error is 1.5e-7. Arguments of a task are integers:
addresses and counts. A task is a range of values, whose number is a multiple of 16.
"""

from __future__ import annotations

import numpy as np

from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.compiled import loop
from ssmrank.kernels.simd.vectors import (
    LOG2_E,
    arguments,
    exp2,
    load,
    load_bfloat16,
    maximum,
    next_task,
    sigmoid,
    splat,
    store,
    store_bfloat16,
)

_activate_arguments = arguments(6)


@loop(_activate_arguments)
def activate(table: int) -> None:
    """Writes silu(x), or gelu(x) for kind 1, of the values from `first` to before `last`; half: they are bfloat16."""
    task = next_task(table)
    while task != 0:
        first, last, x, y, half, kind = _activate_arguments(task)
        zero, one = splat(np.float32(0.0)), splat(np.float32(1.0))
        for place in range(first, last, LANES):
            value = load_bfloat16(x + 2 * place) if half != 0 else load(x + 4 * place)
            if kind == 0:
                result = value * sigmoid(value)
            else:
                size = maximum(value, zero - value)
                scaled = size * splat(np.float32(0.7071067811865476))
                t = one / (one + scaled * splat(np.float32(0.3275911)))
                series = t * splat(np.float32(1.061405429)) + splat(np.float32(-1.453152027))
                series = t * series + splat(np.float32(1.421413741))
                series = t * series + splat(np.float32(-0.284496736))
                series = t * series + splat(np.float32(0.254829592))
                above = t * series * exp2((zero - scaled) * scaled * splat(np.float32(LOG2_E)))
                result = maximum(value, zero) - size * above * splat(np.float32(0.5))
            if half != 0:
                store_bfloat16(y + 2 * place, result)
            else:
                store(y + 4 * place, result)
        task = next_task(table)
