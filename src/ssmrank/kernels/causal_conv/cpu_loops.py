"""The causal convolution's loops for CPUs, compiled by numba; called by `cpu`.

The arguments of a task are integers: addresses of float32 memory, row strides in bytes, counts. Rows of
`[tokens, channels]` tensors are contiguous, `channels` is a multiple of 16, and filters are transposed to
`[width, channels]`. A task is a range of tokens.
"""

from __future__ import annotations

import numpy as np

from ssmrank.kernels.simd.compiled import loop, njit
from ssmrank.kernels.simd.vectors import BYTES, arguments, keep, load, load_integer, next_task, sigmoid, splat, store

TILE = 32
"""Tokens of a tile of the backward pass, whose gradients before the activation stay in cache."""


@njit
def sequence_of(starts: int, token: int) -> int:
    """The sequence that holds a token."""
    sequence = 0
    while load_integer(starts + 8 * (sequence + 1)) <= token:
        sequence += 1
    return sequence


_conv_forward_arguments = arguments(12)


@loop(_conv_forward_arguments)
def conv_forward(table: int) -> None:
    """Writes y of the tokens from `first` to before `last`; `history` as in `packed_causal_conv1d`, or 0."""
    task = next_task(table)
    while task != 0:
        (
            first,
            last,
            starts,
            x,
            x_stride,
            weight,
            bias,
            y,
            channels,
            width,
            silu,
            history,
        ) = _conv_forward_arguments(task)
        row = 4 * channels
        sequence = sequence_of(starts, first)
        for token in range(first, last):
            while load_integer(starts + 8 * (sequence + 1)) <= token:
                sequence += 1
            past = min(width - 1, token - load_integer(starts + 8 * sequence))
            # Where the sequence continues another: the tokens before its start, nearest first.
            known = past
            before = history + 8 * (sequence * (width - 1) - past)
            if history != 0:
                while known < width - 1 and load_integer(before + 8 * known) >= 0:
                    known += 1
            for channel in range(0, row, BYTES):
                total = load(bias + channel)
                for back in range(past + 1):
                    tap = load(weight + (width - 1 - back) * row + channel)
                    total = total + tap * load(x + (token - back) * x_stride + channel)
                for back in range(past, known):
                    tap = load(weight + (width - 2 - back) * row + channel)
                    total = total + tap * load(x + load_integer(before + 8 * back) * x_stride + channel)
                if silu != 0:
                    total = total * sigmoid(total)
                store(y + token * row + channel, total)
        task = next_task(table)


_conv_backward_arguments = arguments(16)


@loop(_conv_backward_arguments)
def conv_backward(table: int) -> None:
    """Writes x's gradient; adds the gradients of weight and bias to the values in memory."""
    task = next_task(table)
    while task != 0:
        (
            first,
            last,
            grad_weight,
            grad_bias,
            starts,
            tokens,
            x,
            x_stride,
            weight,
            bias,
            grad_y,
            grad_y_stride,
            grad_x,
            channels,
            width,
            silu,
        ) = _conv_backward_arguments(task)
        row = 4 * channels
        one = splat(np.float32(1.0))
        held = TILE + width - 1
        scratch = np.empty(held * channels + 16, dtype=np.float32)
        grads = (scratch.ctypes.data + 63) // 64 * 64
        sequence = sequence_of(starts, first)
        for origin in range(first, last, TILE):
            end = min(origin + TILE, last)
            while load_integer(starts + 8 * (sequence + 1)) <= origin:
                sequence += 1
            # Gradients before the activation, of the tile and of the later tokens that its last tokens contribute to.
            reader = sequence
            for token in range(origin, min(end + width - 1, tokens)):
                while load_integer(starts + 8 * (reader + 1)) <= token:
                    reader += 1
                past = min(width - 1, token - load_integer(starts + 8 * reader))
                target = grads + (token - origin) * row
                for channel in range(0, row, BYTES):
                    grad = load(grad_y + token * grad_y_stride + channel)
                    if silu != 0:
                        total = load(bias + channel)
                        for back in range(past + 1):
                            tap = load(weight + (width - 1 - back) * row + channel)
                            total = total + tap * load(x + (token - back) * x_stride + channel)
                        open_ = sigmoid(total)
                        grad = grad * (open_ * (one + total * (one - open_)))
                    store(target + channel, grad)
                    if token < end:
                        store(grad_bias + channel, load(grad_bias + channel) + grad)
                        for back in range(past + 1):
                            place = grad_weight + (width - 1 - back) * row + channel
                            store(place, load(place) + grad * load(x + (token - back) * x_stride + channel))
            reader = sequence
            for token in range(origin, end):
                while load_integer(starts + 8 * (reader + 1)) <= token:
                    reader += 1
                ahead = min(width, load_integer(starts + 8 * (reader + 1)) - token)
                source = grads + (token - origin) * row
                for channel in range(0, row, BYTES):
                    total = splat(np.float32(0.0))
                    for forward in range(ahead):
                        tap = load(weight + (width - 1 - forward) * row + channel)
                        total = total + tap * load(source + forward * row + channel)
                    store(grad_x + token * row + channel, total)
        keep(scratch)
        task = next_task(table)
