"""Mamba-2's mixer for CPUs, compiled by numba; called by `cpu`.

Within a chunk of Q tokens the mixer is masked attention without softmax: y = M x with M = (C Bᵀ ∘ decays) · Δ. Only the
lower triangle of M is computed, four rows at a time, and each is used while it is in the cache. C Bᵀ is computed once
for all heads of a task. Between chunks each head passes on its state `[N, P]`.

The arguments of a task are integers: addresses of memory (0: absent), strides in bytes, counts. Floats are float32;
tables of chunks are int64. P and N are multiples of 16. Running sums of log2 decays are held as two floats each, as in
`chunked`. A task is some heads of one group over one sequence.
"""

from __future__ import annotations

import numpy as np

from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.compiled import loop, njit
from ssmrank.kernels.simd.tiles import multiply, transpose
from ssmrank.kernels.simd.vectors import (
    BYTES,
    LOG2_E,
    arguments,
    broadcast,
    exp2,
    keep,
    keep_first,
    lane_sum,
    load,
    load_integer,
    load_scalar,
    minimum,
    next_task,
    splat,
    store,
    store_scalar,
)


@njit
def pack(source: int, stride: int, target: int, rows: int, vectors: int) -> None:
    """Copies strided rows to contiguous ones."""
    for row in range(rows):
        for column in range(vectors):
            place = column * BYTES
            store(target + row * vectors * BYTES + place, load(source + row * stride + place))


@njit
def running_sums(
    decays: int, steps: int, stride: int, length: int, filled: int, coarse: int, fine: int, step: int
) -> None:
    """Writes a head's running sum of log2 decays, as coarse + fine, and its steps, contiguous, followed by zeros."""
    total = 0.0
    for row in range(length):
        total += load_scalar(decays + row * stride) * LOG2_E
        high = np.float32(total)
        store_scalar(coarse + 4 * row, high)
        store_scalar(fine + 4 * row, np.float32(total - high))
        store_scalar(step + 4 * row, load_scalar(steps + row * stride))
    for row in range(length, filled):
        store_scalar(coarse + 4 * row, np.float32(0.0))
        store_scalar(fine + 4 * row, np.float32(0.0))
        store_scalar(step + 4 * row, np.float32(0.0))


@njit
def scale_rows(source: int, target: int, rows: int, vectors: int, coarse: int, fine: int, step: int, end: int) -> None:
    """Scales each row by its decay from the chunk's start (end 0), or by its decay to token `end - 1` and its step."""
    zero = splat(np.float32(0.0))
    for row in range(rows):
        if end == 0:
            factor = exp2(broadcast(coarse + 4 * row))
        else:
            exponent = broadcast(coarse + 4 * end - 4) - broadcast(coarse + 4 * row)
            exponent = exponent + (broadcast(fine + 4 * end - 4) - broadcast(fine + 4 * row))
            factor = exp2(minimum(exponent, zero)) * broadcast(step + 4 * row)
        for column in range(vectors):
            place = (row * vectors + column) * BYTES
            store(target + place, factor * load(source + place))


@njit
def scores(c: int, b_transposed: int, states: int, length: int, stride: int, target: int) -> None:
    """C Bᵀ up to the vector that holds the diagonal."""
    for row in range(0, length, 4):
        rows = min(4, length - row)
        vectors = (row + rows + LANES - 1) // LANES
        width = 4 * states
        multiply(
            c + row * width, width, 4, b_transposed, stride, target + row * stride, stride, rows, vectors, states, 0
        )


@njit
def mix(
    row: int,
    rows: int,
    grid: int,
    grid_row: int,
    coarse: int,
    fine: int,
    step: int,
    skip: float,
    mixing: int,
    mixing_row: int,
) -> None:
    """Up to four rows of M = (C Bᵀ ∘ decays) · Δ + D, from `row` on, zeros right of the diagonal."""
    zero = splat(np.float32(0.0))
    for inner in range(row, row + rows):
        weights = mixing + (inner - row) * mixing_row
        high, low = broadcast(coarse + 4 * inner), broadcast(fine + 4 * inner)
        for column in range(0, 4 * inner + 4, BYTES):
            exponent = (high - load(coarse + column)) + (low - load(fine + column))
            weight = exp2(minimum(exponent, zero)) * load(step + column)
            store(weights + column, weight * load(grid + inner * grid_row + column))
        store_scalar(weights + 4 * inner, load_scalar(weights + 4 * inner) + skip)
        for column in range(inner + 1, row + rows):
            store_scalar(weights + 4 * column, np.float32(0.0))


_ssd_forward_arguments = arguments(24)


@loop(_ssd_forward_arguments)
def ssd_forward(table: int) -> None:
    """Writes y, and where asked for the final states and the state at the start of each chunk."""
    task = next_task(table)
    while task != 0:
        (
            sequence,
            group,
            first_head,
            last_head,
            chunk_starts,
            chunk_offsets,
            x,
            x_stride,
            steps,
            decays,
            B,
            B_stride,
            C,
            C_stride,
            D,
            y,
            initial_states,
            final_states,
            checkpoints,
            heads,
            width,
            states,
            longest,
            initial_index,
        ) = _ssd_forward_arguments(task)
        state_vectors, vectors = states // LANES, width // LANES
        filled = (longest + LANES - 1) // LANES * LANES
        line, row_bytes, matrix = 4 * filled, 4 * heads * width, 4 * states * width
        count = last_head - first_head
        floats = 5 * filled * states + filled * filled + 8 * filled + filled * width + count * states * width
        scratch = np.empty(floats + 16, dtype=np.float32)
        b_rows = (scratch.ctypes.data + 63) // 64 * 64
        c_rows = b_rows + line * states
        b_columns = c_rows + line * states
        b_scaled = b_columns + line * states
        c_scaled = b_scaled + line * states
        grid = c_scaled + line * states
        mixing = grid + line * filled
        coarse = mixing + 4 * line
        fine = coarse + line
        step = fine + line
        x_rows = step + 2 * line
        carried = x_rows + line * width
        zero = splat(np.float32(0.0))
        first_chunk = load_integer(chunk_offsets + 8 * sequence)
        last_chunk = load_integer(chunk_offsets + 8 * sequence + 8)
        origin = sequence if initial_states != 0 else -1
        if initial_index != 0:
            origin = load_integer(initial_index + 8 * sequence)
        for head in range(first_head, last_head):
            place = carried + (head - first_head) * matrix
            for index in range(0, matrix, BYTES):
                if origin >= 0:
                    store(place + index, load(initial_states + (origin * heads + head) * matrix + index))
                else:
                    store(place + index, zero)

        for chunk in range(first_chunk, last_chunk):
            start = load_integer(chunk_starts + 8 * chunk)
            length = load_integer(chunk_starts + 8 * chunk + 8) - start
            has_past = chunk > first_chunk or origin >= 0
            has_future = chunk + 1 < last_chunk or final_states != 0
            pack(B + start * B_stride + 4 * group * states, B_stride, b_rows, length, state_vectors)
            pack(C + start * C_stride + 4 * group * states, C_stride, c_rows, length, state_vectors)
            transpose(b_rows, 4 * states, b_columns, length, states, line)
            scores(c_rows, b_columns, states, length, line, grid)
            for head in range(first_head, last_head):
                state = carried + (head - first_head) * matrix
                offset = 4 * (start * heads + head)
                running_sums(decays + offset, steps + offset, 4 * heads, length, filled, coarse, fine, step)
                pack(x + start * x_stride + 4 * head * width, x_stride, x_rows, length, vectors)
                if checkpoints != 0:
                    for index in range(0, matrix, BYTES):
                        store(checkpoints + (chunk * heads + head) * matrix + index, load(state + index))
                if has_past:
                    scale_rows(c_rows, c_scaled, length, state_vectors, coarse, fine, step, 0)
                for row in range(0, length, 4):
                    rows = min(4, length - row)
                    target = y + (start + row) * row_bytes + 4 * head * width
                    if has_past:
                        source = c_scaled + row * 4 * states
                        multiply(source, 4 * states, 4, state, 4 * width, target, row_bytes, rows, vectors, states, 0)
                    mix(row, rows, grid, line, coarse, fine, step, load_scalar(D + 4 * head), mixing, line)
                    multiply(
                        mixing, line, 4, x_rows, 4 * width, target, row_bytes, rows, vectors, row + rows, int(has_past)
                    )
                if has_future:
                    scale_rows(b_rows, b_scaled, length, state_vectors, coarse, fine, step, length)
                    kept = exp2(broadcast(coarse + 4 * length - 4))
                    for index in range(0, matrix, BYTES):
                        store(state + index, kept * load(state + index))
                    multiply(b_scaled, 4, 4 * states, x_rows, 4 * width, state, 4 * width, states, vectors, length, 1)
        if final_states != 0:
            for head in range(first_head, last_head):
                place = carried + (head - first_head) * matrix
                for index in range(0, matrix, BYTES):
                    store(final_states + (sequence * heads + head) * matrix + index, load(place + index))
        keep(scratch)
        task = next_task(table)


_ssd_suffixes_arguments = arguments(21)


@loop(_ssd_suffixes_arguments)
def ssd_suffixes(table: int) -> None:
    """Writes y of sequences that begin with the same state, at most `longest` tokens each; writes no states.

    A task is some neighbouring sequences and some heads of a group. The state is read in place, once for all tokens of
    the task: their products with it are one matrix product.
    """
    task = next_task(table)
    while task != 0:
        (
            first_sequence,
            last_sequence,
            state,
            group,
            first_head,
            last_head,
            starts,
            x,
            x_stride,
            steps,
            decays,
            B,
            B_stride,
            C,
            C_stride,
            D,
            y,
            heads,
            width,
            states,
            longest,
        ) = _ssd_suffixes_arguments(task)
        state_vectors, vectors = states // LANES, width // LANES
        start = load_integer(starts + 8 * first_sequence)
        tokens = load_integer(starts + 8 * last_sequence) - start
        filled = (tokens + LANES - 1) // LANES * LANES + LANES
        widest = (longest + LANES - 1) // LANES * LANES
        line, grid_row, row_bytes, matrix = 4 * filled, 4 * widest, 4 * heads * width, 4 * states * width
        floats = filled * (4 * states + widest + width + 3) + 4 * widest
        scratch = np.empty(floats + 16, dtype=np.float32)
        b_rows = (scratch.ctypes.data + 63) // 64 * 64
        c_rows = b_rows + line * states
        b_columns = c_rows + line * states
        c_scaled = b_columns + line * states
        grid = c_scaled + line * states
        x_rows = grid + line * widest
        coarse = x_rows + line * width
        fine = coarse + line
        step = fine + line
        mixing = step + line
        pack(B + start * B_stride + 4 * group * states, B_stride, b_rows, tokens, state_vectors)
        pack(C + start * C_stride + 4 * group * states, C_stride, c_rows, tokens, state_vectors)
        transpose(b_rows, 4 * states, b_columns, tokens, states, line)
        for sequence in range(first_sequence, last_sequence):
            first = load_integer(starts + 8 * sequence) - start
            length = load_integer(starts + 8 * sequence + 8) - start - first
            for row in range(0, length, 4):
                rows = min(4, length - row)
                source, target = c_rows + 4 * (first + row) * states, grid + (first + row) * grid_row
                covered = (row + rows + LANES - 1) // LANES
                multiply(source, 4 * states, 4, b_columns + 4 * first, line, target, grid_row, rows, covered, states, 0)
        for head in range(first_head, last_head):
            offset = 4 * (start * heads + head)
            skip = load_scalar(D + 4 * head)
            for sequence in range(first_sequence, last_sequence):
                first = load_integer(starts + 8 * sequence) - start
                length = load_integer(starts + 8 * sequence + 8) - start - first
                place = offset + 4 * first * heads
                # Zeros after a sequence are overwritten by the next one's sums.
                running_sums(
                    decays + place,
                    steps + place,
                    4 * heads,
                    length,
                    min(length + LANES, filled - first),
                    coarse + 4 * first,
                    fine + 4 * first,
                    step + 4 * first,
                )
            pack(x + start * x_stride + 4 * head * width, x_stride, x_rows, tokens, vectors)
            scale_rows(c_rows, c_scaled, tokens, state_vectors, coarse, fine, step, 0)
            target = y + start * row_bytes + 4 * head * width
            own = state + head * matrix
            multiply(c_scaled, 4 * states, 4, own, 4 * width, target, row_bytes, tokens, vectors, states, 0)
            for sequence in range(first_sequence, last_sequence):
                first = load_integer(starts + 8 * sequence) - start
                length = load_integer(starts + 8 * sequence + 8) - start - first
                place = 4 * first
                for row in range(0, length, 4):
                    rows = min(4, length - row)
                    mix(
                        row,
                        rows,
                        grid + first * grid_row,
                        grid_row,
                        coarse + place,
                        fine + place,
                        step + place,
                        skip,
                        mixing,
                        grid_row,
                    )
                    multiply(
                        mixing,
                        grid_row,
                        4,
                        x_rows + first * 4 * width,
                        4 * width,
                        target + (first + row) * row_bytes,
                        row_bytes,
                        rows,
                        vectors,
                        row + rows,
                        1,
                    )
        keep(scratch)
        task = next_task(table)


@njit
def multiply_lower(
    grid: int, line: int, rows_of: int, width_bytes: int, target: int, length: int, vectors: int, transposed: int
) -> None:
    """target += grid · rows, or gridᵀ · rows, for a lower triangular grid; all rows are `width_bytes` long."""
    for row in range(0, length, 4):
        rows = min(4, length - row)
        place = target + row * width_bytes
        if transposed != 0:
            corner = grid + row * line + 4 * row
            source = rows_of + row * width_bytes
            multiply(corner, 4, line, source, width_bytes, place, width_bytes, rows, vectors, length - row, 1)
        else:
            depth = row + rows
            multiply(grid + row * line, line, 4, rows_of, width_bytes, place, width_bytes, rows, vectors, depth, 1)


@njit
def add_rows(source: int, target: int, stride: int, rows: int, vectors: int) -> None:
    """Adds contiguous rows to strided rows."""
    for row in range(rows):
        for column in range(vectors):
            place = target + row * stride + column * BYTES
            store(place, load(place) + load(source + (row * vectors + column) * BYTES))


@njit
def clear(target: int, size: int) -> None:
    """Writes zeros; the number of bytes is a multiple of a vector's size."""
    zero = splat(np.float32(0.0))
    for index in range(0, size, BYTES):
        store(target + index, zero)


@njit
def weigh_and_sum(
    products: int,
    rows_of: int,
    sums: int,
    length: int,
    vectors: int,
    coarse: int,
    fine: int,
    end: int,
    step: int,
    exponent_grads: int,
    step_grads: int,
) -> None:
    """The backward pass of `scale_rows`: sums += factor · products, and the gradients of exponents and steps.

    `products` are the gradients of the scaled rows and `rows_of` the rows before scaling. With end = 0 the exponent is
    a token's running sum, else the running sum of token `end - 1` less the token's.
    """
    zero = splat(np.float32(0.0))
    last = np.float32(0.0)
    for row in range(length):
        if end == 0:
            factor = exp2(broadcast(coarse + 4 * row))
        else:
            exponent = broadcast(coarse + 4 * end - 4) - broadcast(coarse + 4 * row)
            exponent = exponent + (broadcast(fine + 4 * end - 4) - broadcast(fine + 4 * row))
            factor = exp2(minimum(exponent, zero))
        weight = factor if end == 0 else factor * broadcast(step + 4 * row)
        total = zero
        for column in range(vectors):
            place = (row * vectors + column) * BYTES
            product = load(products + place)
            total = total + product * load(rows_of + place)
            store(sums + place, load(sums + place) + weight * product)
        dot = lane_sum(total * factor)
        if end == 0:
            store_scalar(exponent_grads + 4 * row, load_scalar(exponent_grads + 4 * row) + dot)
        else:
            store_scalar(step_grads + 4 * row, load_scalar(step_grads + 4 * row) + dot)
            dot = dot * load_scalar(step + 4 * row)
            store_scalar(exponent_grads + 4 * row, load_scalar(exponent_grads + 4 * row) - dot)
            last += dot
    if end != 0:
        place = exponent_grads + 4 * end - 4
        store_scalar(place, load_scalar(place) + last)


_ssd_backward_arguments = arguments(32)


@loop(_ssd_backward_arguments)
def ssd_backward(table: int) -> None:
    """Writes the gradients; adds those of B and C to the values in memory, and writes D's per sequence and head."""
    task = next_task(table)
    while task != 0:
        (
            sequence,
            group,
            first_head,
            last_head,
            grad_B,
            grad_C,
            chunk_starts,
            chunk_offsets,
            x,
            x_stride,
            steps,
            decays,
            B,
            B_stride,
            C,
            C_stride,
            D,
            has_initial,
            checkpoints,
            grad_y,
            grad_y_stride,
            grad_final,
            grad_x,
            grad_steps,
            grad_decays,
            grad_D,
            grad_initial,
            heads,
            groups,
            width,
            states,
            longest,
        ) = _ssd_backward_arguments(task)
        state_vectors, vectors = states // LANES, width // LANES
        filled = (longest + LANES - 1) // LANES * LANES
        line, row_bytes, matrix = 4 * filled, 4 * heads * width, 4 * states * width
        group_bytes = 4 * groups * states
        count = last_head - first_head
        floats = 7 * filled * states + 3 * filled * filled + 12 * filled + 4 * filled * width
        floats += (count + 1) * states * width
        scratch = np.empty(floats + 16, dtype=np.float32)
        b_rows = (scratch.ctypes.data + 63) // 64 * 64
        c_rows = b_rows + line * states
        b_columns = c_rows + line * states
        b_sums = b_columns + line * states
        c_sums = b_sums + line * states
        products = c_sums + line * states
        scaled = products + line * states
        grid = scaled + line * states
        grid_grads = grid + line * filled
        mixing = grid_grads + line * filled
        lines = mixing + line * filled
        coarse, fine, step = lines, lines + line, lines + 2 * line
        exponent_grads, step_grads, mixing_grads = lines + 3 * line, lines + 4 * line, lines + 5 * line
        x_rows = lines + 12 * line
        x_columns = x_rows + line * width
        y_grads = x_columns + line * width
        x_grads = y_grads + line * width
        carried = x_grads + line * width
        flipped = carried + count * matrix
        zero = splat(np.float32(0.0))
        first_chunk = load_integer(chunk_offsets + 8 * sequence)
        last_chunk = load_integer(chunk_offsets + 8 * sequence + 8)
        for head in range(first_head, last_head):
            place = carried + (head - first_head) * matrix
            store_scalar(grad_D + 4 * (sequence * heads + head), np.float32(0.0))
            for index in range(0, matrix, BYTES):
                if grad_final != 0:
                    store(place + index, load(grad_final + (sequence * heads + head) * matrix + index))
                else:
                    store(place + index, zero)

        for chunk in range(last_chunk - 1, first_chunk - 1, -1):
            start = load_integer(chunk_starts + 8 * chunk)
            length = load_integer(chunk_starts + 8 * chunk + 8) - start
            has_past = chunk > first_chunk or has_initial != 0
            has_future = chunk + 1 < last_chunk or grad_final != 0
            pack(B + start * B_stride + 4 * group * states, B_stride, b_rows, length, state_vectors)
            pack(C + start * C_stride + 4 * group * states, C_stride, c_rows, length, state_vectors)
            transpose(b_rows, 4 * states, b_columns, length, states, line)
            scores(c_rows, b_columns, states, length, line, grid)
            clear(b_sums, 4 * length * states)
            clear(c_sums, 4 * length * states)
            clear(grid_grads, length * line)
            for head in range(first_head, last_head):
                state_grads = carried + (head - first_head) * matrix
                state = checkpoints + (chunk * heads + head) * matrix
                offset = 4 * (start * heads + head)
                running_sums(decays + offset, steps + offset, 4 * heads, length, filled, coarse, fine, step)
                clear(exponent_grads, 2 * line)
                pack(x + start * x_stride + 4 * head * width, x_stride, x_rows, length, vectors)
                pack(grad_y + start * grad_y_stride + 4 * head * width, grad_y_stride, y_grads, length, vectors)
                transpose(x_rows, 4 * width, x_columns, length, width, line)
                skip = load_scalar(D + 4 * head)
                skip_grad = np.float32(0.0)

                # Within the chunk: gradients of M four rows at a time, and from them those of C Bᵀ, decays and steps.
                for row in range(0, length, 4):
                    rows = min(4, length - row)
                    columns = (row + rows + LANES - 1) // LANES
                    source = y_grads + row * 4 * width
                    multiply(source, 4 * width, 4, x_columns, line, mixing_grads, line, rows, columns, width, 0)
                    for inner in range(row, row + rows):
                        weights = mixing + inner * line
                        slopes = mixing_grads + (inner - row) * line
                        skip_grad += load_scalar(slopes + 4 * inner)
                        high, low = broadcast(coarse + 4 * inner), broadcast(fine + 4 * inner)
                        row_sum = zero
                        for column in range(0, 4 * inner + 4, BYTES):
                            exponent = (high - load(coarse + column)) + (low - load(fine + column))
                            decay = keep_first(exp2(minimum(exponent, zero)), inner + 1 - column // 4)
                            size = load(step + column)
                            score = load(grid + inner * line + column)
                            weight = decay * size
                            slope = load(slopes + column)
                            store(weights + column, weight * score)
                            place = grid_grads + inner * line + column
                            store(place, load(place) + slope * weight)
                            raw = slope * score * decay
                            store(step_grads + column, load(step_grads + column) + raw)
                            raw = raw * size
                            store(exponent_grads + column, load(exponent_grads + column) - raw)
                            row_sum = row_sum + raw
                        store_scalar(weights + 4 * inner, load_scalar(weights + 4 * inner) + skip)
                        place = exponent_grads + 4 * inner
                        store_scalar(place, load_scalar(place) + lane_sum(row_sum))
                place = grad_D + 4 * (sequence * heads + head)
                store_scalar(place, load_scalar(place) + skip_grad)
                clear(x_grads, 4 * length * width)
                multiply_lower(mixing, line, y_grads, 4 * width, x_grads, length, vectors, 1)

                if has_future:
                    # The state after the chunk: kept · state before + scaled Bᵀ x.
                    scale_rows(b_rows, scaled, length, state_vectors, coarse, fine, step, length)
                    multiply(
                        scaled, 4 * states, 4, state_grads, 4 * width, x_grads, 4 * width, length, vectors, states, 1
                    )
                    transpose(state_grads, 4 * width, flipped, states, width, 4 * states)
                    multiply(
                        x_rows, 4 * width, 4, flipped, 4 * states, products, 4 * states, length, state_vectors, width, 0
                    )
                    weigh_and_sum(
                        products, b_rows, b_sums, length, state_vectors, coarse, fine, length, step, exponent_grads,
                        step_grads,
                    )  # fmt: skip
                    kept = exp2(broadcast(coarse + 4 * length - 4))
                    total = zero
                    for index in range(0, matrix, BYTES):
                        grad = kept * load(state_grads + index)
                        if has_past:
                            total = total + grad * load(state + index)
                        store(state_grads + index, grad)
                    place = exponent_grads + 4 * length - 4
                    store_scalar(place, load_scalar(place) + lane_sum(total))
                if has_past:
                    # The part of the state before the chunk: y += scaled C · state before.
                    transpose(state, 4 * width, flipped, states, width, 4 * states)
                    multiply(
                        y_grads,
                        4 * width,
                        4,
                        flipped,
                        4 * states,
                        products,
                        4 * states,
                        length,
                        state_vectors,
                        width,
                        0,
                    )
                    weigh_and_sum(
                        products,
                        c_rows,
                        c_sums,
                        length,
                        state_vectors,
                        coarse,
                        fine,
                        0,
                        step,
                        exponent_grads,
                        step_grads,
                    )
                    scale_rows(c_rows, scaled, length, state_vectors, coarse, fine, step, 0)
                    multiply(
                        scaled, 4, 4 * states, y_grads, 4 * width, state_grads, 4 * width, states, vectors, length, 1
                    )

                for inner in range(length):
                    target = grad_x + (start + inner) * row_bytes + 4 * head * width
                    for column in range(vectors):
                        place = column * BYTES
                        store(target + place, load(x_grads + inner * 4 * width + place))
                total_grad = 0.0
                for inner in range(length - 1, -1, -1):
                    total_grad += load_scalar(exponent_grads + 4 * inner)
                    place = 4 * ((start + inner) * heads + head)
                    store_scalar(grad_decays + place, np.float32(total_grad))
                    store_scalar(grad_steps + place, load_scalar(step_grads + 4 * inner))
            multiply_lower(grid_grads, line, b_rows, 4 * states, c_sums, length, state_vectors, 0)
            multiply_lower(grid_grads, line, c_rows, 4 * states, b_sums, length, state_vectors, 1)
            add_rows(b_sums, grad_B + start * group_bytes + 4 * group * states, group_bytes, length, state_vectors)
            add_rows(c_sums, grad_C + start * group_bytes + 4 * group * states, group_bytes, length, state_vectors)
        if grad_initial != 0:
            for head in range(first_head, last_head):
                place = carried + (head - first_head) * matrix
                for index in range(0, matrix, BYTES):
                    store(grad_initial + (sequence * heads + head) * matrix + index, load(place + index))
        keep(scratch)
        task = next_task(table)
