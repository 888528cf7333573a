"""The Triton selective scan in parallel over segments of sequences, where there are too few sequences to fill a GPU.

A segment's last state is a linear function of its initial state. The last state from a zero start, and the sum of the
segment's step sizes, determine that function. All segments therefore run at once from zeros, a short loop over each
sequence's segments computes their initial states, and the scan then treats segments as sequences. The gradients of
states are computed in the same way from the end.

Sequence s has the slots from start // SEGMENT + s to the next sequence's; slots that it does not need are empty.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ssmrank.kernels.gpu.tiles import LOG2_E, exp2, load_rows, sigmoid
from ssmrank.kernels.selective_scan.gpu_forward import run_tile, steps_and_drives
from ssmrank.kernels.selective_scan.gpu_tiles import load_start, load_words, plane_of, projections_of, softplus


@triton.jit(do_not_specialize=["sequences"])
def table_kernel(starts, segments, sequences, SEGMENT: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Writes where segments start, and the number of tokens."""
    sequence = tl.program_id(0)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    first, stop = start // SEGMENT + sequence, end // SEGMENT + sequence + 1
    for slot in range(first, stop, BLOCK):
        number = slot + tl.arange(0, BLOCK)
        tl.store(segments + number, tl.minimum(start + (number - first) * SEGMENT, end), mask=number < stop)
    if sequence == sequences - 1:
        tl.store(segments + stop, end)


@triton.jit
def ends_kernel(  # type: ignore[no-untyped-def]
    u, delta, A, bias, segments, tiles, ends, totals,
    u_stride: tl.constexpr, delta_stride: tl.constexpr, channels: tl.constexpr,
    N: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, HAS_BIAS: tl.constexpr, EVEN: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """The last state of a segment that begins with zeros, and the sum of its step sizes."""
    segment = tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    d = tl.program_id(0) * BLOCK + lane
    d_mask = EVEN | (d < channels)
    start, end = tl.load(segments + segment), tl.load(segments + segment + 1)
    shift = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + d, mask=d_mask, other=0.0)
    own = ends + segment.to(tl.int64) * (N * channels)
    total = tl.zeros([BLOCK], tl.float32)
    for tile in range(0, tl.cdiv(end - start, TILE)):
        first = start + tile * TILE
        count = (end - first).to(tl.int32)
        delta_rows = load_rows(delta + first * delta_stride + d, delta_stride, count, d_mask, TILE)
        u_rows = load_rows(u + first * u_stride + d, u_stride, count, d_mask, TILE)
        steps, drives = steps_and_drives(delta_rows, u_rows, shift, count, TILE, PTX)
        for t in tl.static_range(TILE):
            total += steps[t]
        vectors = tiles + (start // TILE + segment + tile) * plane_of(tiles, N, TILE)
        run_tile(own, tile > 0, own, A, steps, drives, vectors, lane, d, d_mask, channels, N, TILE, PTX)
    tl.store(totals + segment * channels + d, total, mask=d_mask)


@triton.jit
def beginnings_kernel(  # type: ignore[no-untyped-def]
    delta, A, z, bias, segments, tiles, grad_y, beginnings,
    delta_stride: tl.constexpr, z_stride: tl.constexpr, grad_stride: tl.constexpr, channels: tl.constexpr,
    N: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    EVEN: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """The gradient of a segment's initial state, as if the gradient of its last state were zero."""
    segment = tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    d = tl.program_id(0) * BLOCK + lane
    d_mask = EVEN | (d < channels)
    start, end = tl.load(segments + segment), tl.load(segments + segment + 1)
    shift = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + d, mask=d_mask, other=0.0)
    own = beginnings + segment.to(tl.int64) * (N * channels)
    last = tl.cdiv(end - start, TILE) - 1
    for tile_back in range(0, last + 1):
        tile = last - tile_back
        first = start + tile * TILE
        count = (end - first).to(tl.int32)
        delta_rows = load_rows(delta + first * delta_stride + d, delta_stride, count, d_mask, TILE)
        grad_rows = load_rows(grad_y + first * grad_stride + d, grad_stride, count, d_mask, TILE)
        if HAS_Z:
            gates = load_rows(z + first * z_stride + d, z_stride, count, d_mask, TILE)
        steps, grads = (), ()
        for t in tl.static_range(TILE):
            grad = grad_rows[t].to(tl.float32)
            if HAS_Z:
                gate = gates[t].to(tl.float32)
                grad = grad * gate * sigmoid(gate, PTX)
            grads = grads + (grad,)
            steps = steps + (tl.where(t < count, softplus(delta_rows[t].to(tl.float32) + shift, PTX), 0.0),)
        vectors = tiles + (start // TILE + segment + tile) * plane_of(tiles, N, TILE)
        ahead = load_start(own, A, d, d_mask, tile_back > 0)
        for n in range(N):
            place = n * channels + d
            carry, rate = ahead
            ahead = load_start(own, A, place + channels, d_mask & (n + 1 < N), tile_back > 0)
            rate *= LOG2_E
            words = load_words(vectors, n, lane, TILE, PTX)
            for back in tl.static_range(TILE):
                decay = exp2(steps[TILE - 1 - back] * rate, PTX)
                _, c = projections_of(words, TILE - 1 - back, TILE)
                carry = decay * (carry + grads[TILE - 1 - back] * c)
            tl.store(own + place, carry, mask=d_mask)


@triton.jit
def join_kernel(  # type: ignore[no-untyped-def]
    A, starts, totals, parts, outer, states, result,
    channels: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, SEGMENT: tl.constexpr,
    BACK: tl.constexpr, HAS_OUTER: tl.constexpr, HAS_RESULT: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Passes states from segment to segment of a sequence, or gradients back, and writes what each segment receives.

    The first receives `outer` `[sequences, N, channels]` or zeros; `result` gets what the last one passes on.
    """
    sequence = tl.program_id(1)
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, NP)
    mask = (n < N)[:, None] & (d < channels)[None, :]
    place = n[:, None] * channels + d[None, :]
    own = sequence.to(tl.int64) * (N * channels) + place
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    rates = tl.load(A + place, mask=mask, other=0.0) * LOG2_E
    state = tl.zeros([NP, BLOCK], tl.float32)
    if HAS_OUTER:
        state = tl.load(outer + own, mask=mask, other=0.0)
    count = tl.cdiv(end - start, SEGMENT)
    for number in range(0, count):
        slot = start // SEGMENT + sequence + number
        if BACK:
            slot = start // SEGMENT + sequence + count - 1 - number
        tl.store(states + slot * (N * channels) + place, state, mask=mask)
        total = tl.load(totals + slot * channels + d, mask=d < channels, other=0.0)
        part = tl.load(parts + slot * (N * channels) + place, mask=mask, other=0.0)
        state = exp2(total[None, :] * rates, PTX) * state + part
    if HAS_RESULT:
        tl.store(result + own, state, mask=mask)
