"""Attention's loops for CPUs, compiled by numba; called by `cpu`.

Lanes are queries: a block's scores are `[keys, queries]`, so maxima and sums over keys need no sum across lanes, and
keys and values are read where they are. A key that a query does not see has weight 0, so it does not change any sum.

The arguments of a task are integers: addresses of memory, strides in bytes, counts. Floats are float32, with
`[heads, size]` of a token contiguous and `size` a multiple of 16. A task is a range of the blocks of
`ranges.KeyRanges`.
"""

from __future__ import annotations

import numpy as np

from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.compiled import loop, njit
from ssmrank.kernels.simd.tiles import multiply, transpose
from ssmrank.kernels.simd.vectors import (
    BYTES,
    arguments,
    broadcast,
    exp2,
    keep,
    load,
    load_integer,
    maximum,
    next_task,
    splat,
    store,
    store_scalar,
)


@njit
def hide(
    scores: int, line: int, first: int, end: int, start: int, keys: int, causal: int, window: int, value: float
) -> None:
    """Writes `value` where a query, from `first` to before `end`, must not see one of the keys at `scores`.

    start: the place of the first key in the numbers of queries.
    """
    for query in range(first, end):
        low = min(max(0, query - window + 1 - start), keys) if window != 0 else 0
        high = keys
        if causal != 0:
            high = min(high, query + 1 - start)
        if window != 0:
            high = min(high, query + window - start)
        column = scores + 4 * (query - first)
        for key in range(0, low):
            store_scalar(column + key * line, value)
        for key in range(high, keys):
            store_scalar(column + key * line, value)


@njit
def weigh(scores: int, line: int, keys: int, vectors: int, factor: int, sums: int) -> None:
    """Replaces scores with 2^((score - largest) · factor), and writes their sums over the keys."""
    scale = broadcast(factor)
    for column in range(0, vectors * BYTES, BYTES):
        largest = load(scores + column)
        for key in range(1, keys):
            largest = maximum(largest, load(scores + key * line + column))
        total = splat(np.float32(0.0))
        for key in range(keys):
            place = scores + key * line + column
            weight = exp2((load(place) - largest) * scale)
            store(place, weight)
            total = total + weight
        store(sums + column, total)


_attention_arguments = arguments(18)


@loop(_attention_arguments)
def attention(table: int) -> None:
    """Writes y of the queries of the blocks from `first_block` to before `last_block`."""
    task = next_task(table)
    while task != 0:
        (
            first_block,
            last_block,
            blocks,
            ranges,
            most_keys,
            q,
            q_stride,
            k,
            k_stride,
            v,
            v_stride,
            y,
            factor,
            heads,
            key_heads,
            size,
            causal,
            window,
        ) = _attention_arguments(task)
        widest = 64
        scratch = np.empty(widest * (size + most_keys + 1) + 16, dtype=np.float32)
        q_columns = (scratch.ctypes.data + 63) // 64 * 64
        sums = q_columns + 4 * widest * size
        scores = sums + 4 * widest
        row_bytes = 4 * heads * size
        for block in range(first_block, last_block):
            place = blocks + 32 * block
            first, end = load_integer(place), load_integer(place + 8)
            seen, last = ranges + 16 * load_integer(place + 16), load_integer(place + 24) - 1
            vectors = (end - first + LANES - 1) // LANES
            line = vectors * BYTES
            # Queries are among the keys of the last range, so this is the place of the first range's first key.
            origin = load_integer(seen + 16 * last)
            for number in range(last):
                origin -= load_integer(seen + 16 * number + 8) - load_integer(seen + 16 * number)
            for head in range(heads):
                offset = 4 * size * (head * key_heads // heads)
                transpose(q + first * q_stride + 4 * head * size, q_stride, q_columns, end - first, size, line)
                keys = 0
                for number in range(last + 1):
                    start, stop = load_integer(seen + 16 * number), load_integer(seen + 16 * number + 8)
                    own = int(causal != 0 and number == last)
                    if own != 0:
                        stop = end
                    target = scores + keys * line
                    multiply(
                        *(k + start * k_stride + offset, k_stride, 4, q_columns, line, target, line),
                        *(stop - start, vectors, size, 0),
                    )
                    if own != 0 or window != 0:
                        hide(target, line, first, end, origin + keys, stop - start, own, window, np.float32(-3e38))
                    keys += stop - start
                weigh(scores, line, keys, vectors, factor, sums)
                target = y + first * row_bytes + 4 * head * size
                keys = 0
                for number in range(last + 1):
                    start, stop = load_integer(seen + 16 * number), load_integer(seen + 16 * number + 8)
                    own = int(causal != 0 and number == last)
                    if own != 0:
                        stop = end
                    if own != 0 or window != 0:
                        source = scores + keys * line
                        hide(source, line, first, end, origin + keys, stop - start, own, window, np.float32(0.0))
                    multiply(
                        *(scores + keys * line, 4, line, v + start * v_stride + offset, v_stride, target, row_bytes),
                        *(end - first, size // LANES, stop - start, int(number > 0)),
                    )
                    keys += stop - start
                for query in range(end - first):
                    total = broadcast(sums + 4 * query)
                    for column in range(0, 4 * size, BYTES):
                        address = target + query * row_bytes + column
                        store(address, load(address) / total)
        keep(scratch)
        task = next_task(table)
