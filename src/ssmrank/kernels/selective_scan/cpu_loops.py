"""The selective scan's loops for CPUs, compiled by numba; called by `cpu`.

Lanes are channels, so the state of 16 channels is one vector per state index n. Only the gradients of B and C are
summed across lanes, once per step. A task is a block of channels over some sequences. The backward pass processes each
sequence in chunks, from its end: it reads the state that the forward pass stored at the chunk's start, runs the chunk
again, and keeps intermediate values in cache.

The arguments of a task are integers: addresses of float32 memory (0: absent), row strides in bytes, counts. Rows of
`[tokens, channels]` tensors are contiguous and `channels` is a multiple of 16. `decay_rates` is A · log2(e),
transposed to `[states, channels]`, as are states: `[sequences, states, channels]`.
"""

from __future__ import annotations

import numpy as np

from ssmrank.kernels.simd.compiled import loop
from ssmrank.kernels.simd.vectors import (
    BYTES,
    LN_2,
    arguments,
    broadcast,
    exp2,
    keep,
    lane_sum,
    load,
    load_integer,
    next_task,
    sigmoid,
    softplus,
    splat,
    store,
    store_scalar,
)

CHUNK = 32
"""Steps between stored states. Each stored state takes memory; the states between two of them must fit in the cache."""

BLOCK = 4
"""Vectors of channels in a task."""


_scan_forward_arguments = arguments(26)


@loop(_scan_forward_arguments)
def scan_forward(table: int) -> None:
    """Writes y, and the final states and the states at each chunk's start where their addresses are not 0."""
    task = next_task(table)
    while task != 0:
        (
            first_channel,
            vectors,
            first_sequence,
            last_sequence,
            starts,
            u,
            u_stride,
            delta,
            delta_stride,
            delta_bias,
            decay_rates,
            B,
            B_stride,
            C,
            C_stride,
            D,
            z,
            z_stride,
            y,
            initial_states,
            final_states,
            checkpoints,
            checkpoint_offsets,
            channels,
            states,
            initial_index,
        ) = _scan_forward_arguments(task)
        scratch = np.empty(2 * states * 16 + 16, dtype=np.float32)
        state = (scratch.ctypes.data + 63) // 64 * 64
        rates = state + states * BYTES
        row = 4 * channels
        for vector in range(vectors):
            channel = 4 * first_channel + BYTES * vector
            bias = load(delta_bias + channel)
            skip = load(D + channel)
            for n in range(states):
                store(rates + n * BYTES, load(decay_rates + n * row + channel))
            for sequence in range(first_sequence, last_sequence):
                start = load_integer(starts + 8 * sequence)
                end = load_integer(starts + 8 * sequence + 8)
                origin = sequence if initial_states != 0 else -1
                if initial_index != 0:
                    origin = load_integer(initial_index + 8 * sequence)
                for n in range(states):
                    if origin >= 0:
                        store(state + n * BYTES, load(initial_states + (origin * states + n) * row + channel))
                    else:
                        store(state + n * BYTES, splat(np.float32(0.0)))
                checkpoint = checkpoints
                if checkpoints != 0:
                    checkpoint += load_integer(checkpoint_offsets + 8 * sequence) * states * row + channel
                for token in range(start, end):
                    if checkpoints != 0 and (token - start) % CHUNK == 0:
                        for n in range(states):
                            store(checkpoint, load(state + n * BYTES))
                            checkpoint += row
                    step = softplus(load(delta + token * delta_stride + channel) + bias)
                    value = load(u + token * u_stride + channel)
                    drive = step * value
                    out = skip * value
                    B_row = B + token * B_stride
                    C_row = C + token * C_stride
                    for n in range(states):
                        h = exp2(step * load(rates + n * BYTES)) * load(state + n * BYTES)
                        h = h + drive * broadcast(B_row + 4 * n)
                        store(state + n * BYTES, h)
                        out = out + h * broadcast(C_row + 4 * n)
                    if z != 0:
                        gate = load(z + token * z_stride + channel)
                        out = out * (gate * sigmoid(gate))
                    store(y + token * row + channel, out)
                if final_states != 0:
                    for n in range(states):
                        store(final_states + (sequence * states + n) * row + channel, load(state + n * BYTES))
        keep(scratch)
        task = next_task(table)


_scan_backward_arguments = arguments(34)


@loop(_scan_backward_arguments)
def scan_backward(table: int) -> None:
    """Writes the gradients; adds those of A (`[states, channels]`), D and the bias to the values in memory."""
    task = next_task(table)
    while task != 0:
        (
            first_channel,
            vectors,
            first_sequence,
            last_sequence,
            grad_decay,
            grad_D,
            grad_bias,
            grad_B,
            grad_C,
            starts,
            u,
            u_stride,
            delta,
            delta_stride,
            delta_bias,
            decay_rates,
            B,
            B_stride,
            C,
            C_stride,
            D,
            z,
            z_stride,
            checkpoints,
            checkpoint_offsets,
            grad_y,
            grad_y_stride,
            grad_final,
            grad_u,
            grad_delta,
            grad_z,
            grad_initial,
            channels,
            states,
        ) = _scan_backward_arguments(task)
        width = vectors * BYTES
        plane = states * width
        scratch = np.empty(
            ((2 * CHUNK + 4) * plane + 3 * CHUNK * width + 2 * states * BYTES) // 4 + 16, dtype=np.float32
        )
        decays = (scratch.ctypes.data + 63) // 64 * 64
        decayed = decays + (CHUNK + 1) * plane
        carry = decayed + CHUNK * plane
        rates = carry + plane
        rates_grad = rates + plane
        steps = rates_grad + plane
        slopes = steps + CHUNK * width
        grads = slopes + CHUNK * width
        B_sum = grads + CHUNK * width
        C_sum = B_sum + states * BYTES
        row = 4 * channels
        first = 4 * first_channel
        one = splat(np.float32(1.0))
        zero = splat(np.float32(0.0))
        for n in range(states):
            for vector in range(vectors):
                column = n * width + vector * BYTES
                store(rates + column, load(decay_rates + n * row + first + vector * BYTES))
                store(rates_grad + column, zero)

        for sequence in range(first_sequence, last_sequence):
            start = load_integer(starts + 8 * sequence)
            end = load_integer(starts + 8 * sequence + 8)
            for n in range(states):
                for vector in range(vectors):
                    column = n * width + vector * BYTES
                    if grad_final != 0:
                        store(carry + column, load(grad_final + (sequence * states + n) * row + first + vector * BYTES))
                    else:
                        store(carry + column, zero)
            chunks = (end - start + CHUNK - 1) // CHUNK
            for chunk in range(chunks - 1, -1, -1):
                origin = start + chunk * CHUNK
                length = min(CHUNK, end - origin)
                checkpoint = checkpoints + (load_integer(checkpoint_offsets + 8 * sequence) + chunk) * states * row

                # Runs the chunk forward again and keeps the decay and the decayed state of every step.
                for vector in range(vectors):
                    channel = first + vector * BYTES
                    bias = load(delta_bias + channel)
                    skip = load(D + channel)
                    # The state before the chunk is stored as step -1, which has no input.
                    for n in range(states):
                        store(decayed - plane + n * width + vector * BYTES, load(checkpoint + n * row + channel))
                    drive_before = zero
                    B_before = B + origin * B_stride
                    for k in range(length):
                        token = origin + k
                        pre = load(delta + token * delta_stride + channel) + bias
                        step = softplus(pre)
                        value = load(u + token * u_stride + channel)
                        drive = step * value
                        out = skip * value
                        B_row = B + token * B_stride
                        C_row = C + token * C_stride
                        here = k * plane + vector * BYTES
                        for n in range(states):
                            decay = exp2(step * load(rates + n * width + vector * BYTES))
                            h = load(decayed + here - plane + n * width) + drive_before * broadcast(B_before + 4 * n)
                            h = decay * h
                            store(decays + here + n * width, decay)
                            store(decayed + here + n * width, h)
                            out = out + (h + drive * broadcast(B_row + 4 * n)) * broadcast(C_row + 4 * n)
                        B_before = B_row
                        drive_before = drive
                        grad = load(grad_y + token * grad_y_stride + channel)
                        if z != 0:
                            gate = load(z + token * z_stride + channel)
                            open_ = sigmoid(gate)
                            slope = open_ * (one + gate * (one - open_))
                            store(grad_z + token * row + channel, grad * out * slope)
                            grad = grad * (gate * open_)
                        column = k * width + vector * BYTES
                        store(steps + column, step)
                        store(slopes + column, sigmoid(pre))
                        store(grads + column, grad)

                for k in range(length - 1, -1, -1):
                    token = origin + k
                    B_row = B + token * B_stride
                    C_row = C + token * C_stride
                    for n in range(states):
                        store(B_sum + n * BYTES, zero)
                        store(C_sum + n * BYTES, zero)
                    for vector in range(vectors):
                        channel = first + vector * BYTES
                        column = k * width + vector * BYTES
                        step = load(steps + column)
                        grad = load(grads + column)
                        value = load(u + token * u_stride + channel)
                        drive = step * value
                        drive_grad = zero
                        exponent_grad = zero
                        here = k * plane + vector * BYTES
                        for n in range(states):
                            column = n * width + vector * BYTES
                            b = broadcast(B_row + 4 * n)
                            g = load(carry + column) + grad * broadcast(C_row + 4 * n)
                            h = load(decayed + here + n * width)
                            store(C_sum + n * BYTES, load(C_sum + n * BYTES) + grad * (h + drive * b))
                            store(B_sum + n * BYTES, load(B_sum + n * BYTES) + g * drive)
                            drive_grad = drive_grad + g * b
                            product = g * h
                            exponent_grad = exponent_grad + product * load(rates + column)
                            store(rates_grad + column, load(rates_grad + column) + product * step)
                            store(carry + column, g * load(decays + here + n * width))
                        step_grad = exponent_grad * splat(np.float32(LN_2)) + drive_grad * value
                        pre_grad = step_grad * load(slopes + k * width + vector * BYTES)
                        store(grad_delta + token * row + channel, pre_grad)
                        store(grad_u + token * row + channel, drive_grad * step + grad * load(D + channel))
                        store(grad_bias + channel, load(grad_bias + channel) + pre_grad)
                        store(grad_D + channel, load(grad_D + channel) + grad * value)
                    for n in range(states):
                        store_scalar(grad_B + 4 * (token * states + n), lane_sum(load(B_sum + n * BYTES)))
                        store_scalar(grad_C + 4 * (token * states + n), lane_sum(load(C_sum + n * BYTES)))
            if grad_initial != 0:
                for n in range(states):
                    for vector in range(vectors):
                        column = n * width + vector * BYTES
                        store(
                            grad_initial + (sequence * states + n) * row + first + vector * BYTES, load(carry + column)
                        )
        for n in range(states):
            for vector in range(vectors):
                target = grad_decay + n * row + first + vector * BYTES
                store(target, load(target) + load(rates_grad + n * width + vector * BYTES))
        keep(scratch)
        task = next_task(table)
