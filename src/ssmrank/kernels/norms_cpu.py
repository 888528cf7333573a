"""Root-mean-square norms for CPUs, gated or not, compiled by numba; called by `norms_numba`.

Integers are addresses of float32 memory (0: absent), row strides in bytes, and counts. A row is `groups` groups of
`size` channels, a multiple of 16, each normed by itself. A task is a range of rows.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ssmrank.kernels.simd import BYTES, broadcast, lane_sum, load, sigmoid, splat, store, store_scalar


@njit(cache=True, nogil=True)
def norm_forward(
    first: int,
    last: int,
    x: int,
    x_stride: int,
    z: int,
    z_stride: int,
    weight: int,
    y: int,
    scales: int,
    groups: int,
    size: int,
    eps: float,
) -> None:
    """Writes y and the inverse root mean square of each row and group."""
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
            scale = np.float32(1.0 / np.sqrt(lane_sum(total) / size + eps))
            store_scalar(scales + 4 * (row * groups + group), scale)
            source = target if z != 0 else x + row * x_stride + start
            factor = splat(scale)
            for column in range(0, width, BYTES):
                store(target + column, load(source + column) * factor * load(weight + start + column))


@njit(cache=True, nogil=True)
def norm_backward(
    first: int,
    last: int,
    grad_weight: int,
    x: int,
    x_stride: int,
    z: int,
    z_stride: int,
    weight: int,
    scales: int,
    grad_y: int,
    grad_y_stride: int,
    grad_x: int,
    grad_z: int,
    groups: int,
    size: int,
) -> None:
    """Writes the gradients of x and z; the weight's is added to what is there."""
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
