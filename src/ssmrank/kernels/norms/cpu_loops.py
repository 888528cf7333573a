"""Root-mean-square norms for CPUs, gated or not, compiled by numba; called by `cpu`.

The arguments of a task are integers: addresses of float32 memory (0: absent), row strides in bytes, and counts. A row
is `groups` groups of `size` channels, a multiple of 16, each normed by itself. A task is a range of rows.
"""

from __future__ import annotations

import numpy as np

from ssmrank.kernels.simd.compiled import loop
from ssmrank.kernels.simd.vectors import (
    BYTES,
    arguments,
    broadcast,
    lane_sum,
    load,
    load_scalar,
    next_task,
    sigmoid,
    splat,
    store,
    store_scalar,
)

_norm_forward_arguments = arguments(12)


@loop(_norm_forward_arguments)
def norm_forward(table: int) -> None:
    """Writes y and the inverse root mean square of each row and group."""
    task = next_task(table)
    while task != 0:
        (
            first,
            last,
            x,
            x_stride,
            z,
            z_stride,
            weight,
            y,
            scales,
            groups,
            size,
            eps,
        ) = _norm_forward_arguments(task)
        width = 4 * size
        for row in range(first, last):
            for group in range(groups):
                start = group * width
                target = y + row * groups * width + start
                total = splat(np.float32(0.0))
                for column in range(0, width, BYTES):
                    value = load(x + row * x_stride + start + column)
                    if z != 0:
                        gate = load(z + row * z_stride + start + column)
                        value = value * (gate * sigmoid(gate))
                        store(target + column, value)
                    total = total + value * value
                scale = np.float32(1.0 / np.sqrt(lane_sum(total) / size + load_scalar(eps)))
                store_scalar(scales + 4 * (row * groups + group), scale)
                source = target if z != 0 else x + row * x_stride + start
                factor = splat(scale)
                for column in range(0, width, BYTES):
                    store(target + column, load(source + column) * factor * load(weight + start + column))
        task = next_task(table)


_norm_backward_arguments = arguments(15)


@loop(_norm_backward_arguments)
def norm_backward(table: int) -> None:
    """Writes the gradients of x and z; adds the weight's gradient to the values in memory."""
    task = next_task(table)
    while task != 0:
        (
            first,
            last,
            grad_weight,
            x,
            x_stride,
            z,
            z_stride,
            weight,
            scales,
            grad_y,
            grad_y_stride,
            grad_x,
            grad_z,
            groups,
            size,
        ) = _norm_backward_arguments(task)
        width = 4 * size
        one = splat(np.float32(1.0))
        for row in range(first, last):
            for group in range(groups):
                start = group * width
                inputs, gates = x + row * x_stride + start, z + row * z_stride + start
                outputs = grad_y + row * grad_y_stride + start
                place = row * groups * width + start
                scale = broadcast(scales + 4 * (row * groups + group))
                total = splat(np.float32(0.0))
                for column in range(0, width, BYTES):
                    value = load(inputs + column)
                    if z != 0:
                        gate = load(gates + column)
                        value = value * (gate * sigmoid(gate))
                    product = load(outputs + column) * value
                    total = total + product * load(weight + start + column)
                    target = grad_weight + start + column
                    store(target, load(target) + product * scale)
                share = scale * scale * scale * splat(np.float32(lane_sum(total) / size))
                for column in range(0, width, BYTES):
                    value = load(inputs + column)
                    grad = load(outputs + column) * load(weight + start + column) * scale
                    if z != 0:
                        gate = load(gates + column)
                        open_ = sigmoid(gate)
                        silu = gate * open_
                        grad = grad - share * (value * silu)
                        store(grad_z + place + column, grad * value * (open_ + silu * (one - open_)))
                        grad = grad * silu
                    else:
                        grad = grad - share * value
                    store(grad_x + place + column, grad)
        task = next_task(table)
