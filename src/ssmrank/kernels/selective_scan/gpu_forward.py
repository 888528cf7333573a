"""The Triton selective scan's forward kernel."""

from __future__ import annotations

import triton
import triton.language as tl

from ssmrank.kernels.gpu.tiles import LOG2_E, exp2, load_rows, sigmoid, store_rows
from ssmrank.kernels.selective_scan.gpu_tiles import load_start, load_words, plane_of, projections_of, softplus


@triton.jit
def steps_and_drives(delta, u, shift, count, TILE: tl.constexpr, PTX: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of step sizes and of the states' inputs; zero after the end, so that nothing decays or is added there."""
    steps, drives = (), ()
    for t in tl.static_range(TILE):
        step = tl.where(t < count, softplus(delta[t].to(tl.float32) + shift, PTX), 0.0)
        steps = steps + (step,)
        drives = drives + (step * u[t].to(tl.float32),)
    return steps, drives


@triton.jit
def run_tile(  # type: ignore[no-untyped-def]
    source, known, target, A, steps, drives, vectors, lane, d, d_mask,
    channels: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Advances states through a tile; they start from zero unless they are known."""
    ahead = load_start(source, A, d, d_mask, known)
    for n in range(N):
        place = n * channels + d
        state, rate = ahead
        ahead = load_start(source, A, place + channels, d_mask & (n + 1 < N), known)
        rate *= LOG2_E
        words = load_words(vectors, n, lane, TILE, PTX)
        for t in tl.static_range(TILE):
            b, _ = projections_of(words, t, TILE)
            state = exp2(steps[t] * rate, PTX) * state + drives[t] * b
        tl.store(target + place, state, mask=d_mask)


@triton.jit(do_not_specialize=["sequences", "groups"])
def forward_kernel(  # type: ignore[no-untyped-def]
    u, delta, A, D, z, bias, starts, initial, index, tiles, y, final, stored, running,
    sequences, groups,
    u_stride: tl.constexpr, delta_stride: tl.constexpr, z_stride: tl.constexpr, channels: tl.constexpr,
    N: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr, HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_INDEX: tl.constexpr,
    NEED_FINAL: tl.constexpr, STORE: tl.constexpr, ROUNDED: tl.constexpr, EVEN: tl.constexpr, UNROLL: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """Processes one sequence after another for a block of channels, tile by tile.

    `running` `[groups, N, channels]` holds the states between tiles. At the ends of chunks they are written to `stored`
    instead if a backward pass follows; if they are ROUNDED to a narrower dtype there, they are written to both.
    """
    group = tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    d = tl.program_id(0) * BLOCK + lane
    d_mask = EVEN | (d < channels)
    plane = tl.full([], channels, tl.int64) * N
    skip = tl.zeros([BLOCK], tl.float32)
    if HAS_D:
        skip = tl.load(D + d, mask=d_mask, other=0.0)
    shift = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + d, mask=d_mask, other=0.0)
    own = running + group * plane
    for sequence in range(group, sequences, groups):
        start = tl.load(starts + sequence)
        end = tl.load(starts + sequence + 1)
        source, known = own, tl.program_id(0) < 0
        if HAS_INDEX:
            row = tl.load(index + sequence)
            source, known = initial + tl.maximum(row, 0) * plane, row >= 0
        elif HAS_INITIAL:
            source, known = initial + sequence * plane, True
        last = tl.cdiv(end - start, TILE) - 1
        for tile in range(0, last + 1):
            first = start + tile * TILE
            count = (end - first).to(tl.int32)
            delta_rows = load_rows(delta + first * delta_stride + d, delta_stride, count, d_mask, TILE)
            u_rows = load_rows(u + first * u_stride + d, u_stride, count, d_mask, TILE)
            if HAS_Z:
                gates = load_rows(z + first * z_stride + d, z_stride, count, d_mask, TILE)
            steps, drives = steps_and_drives(delta_rows, u_rows, shift, count, TILE, PTX)
            outs = ()
            for t in tl.static_range(TILE):
                outs = outs + (skip * u_rows[t].to(tl.float32),)
            target = own
            if STORE:
                following = stored + (start // CHUNK + sequence + (tile + 1) // (CHUNK // TILE)) * plane
                whole = (tile + 1) % (CHUNK // TILE) == 0
                if not ROUNDED:
                    if whole:
                        target = following
            handed = True
            if NEED_FINAL:
                if tile == last:
                    target = final + sequence * plane
            else:
                handed = tile < last
            vectors = tiles + (start // TILE + sequence + tile) * plane_of(tiles, N, TILE)
            ahead = load_start(source, A, d, d_mask, known)
            words_ahead = load_words(vectors, 0, lane, TILE, PTX)
            for n in tl.range(N, loop_unroll_factor=UNROLL):
                place = n * channels + d
                state, rate = ahead
                ahead = load_start(source, A, place + channels, d_mask & (n + 1 < N), known)
                words = words_ahead
                words_ahead = load_words(vectors, tl.minimum(n + 1, N - 1), lane, TILE, PTX)
                rate *= LOG2_E
                added = ()
                for t in tl.static_range(TILE):
                    b, c = projections_of(words, t, TILE)
                    state = exp2(steps[t] * rate, PTX) * state + drives[t] * b
                    added = added + (outs[t] + state * c,)
                outs = added
                tl.store(target + place, state, mask=d_mask & handed)
                if ROUNDED:
                    rounded = state.to(stored.dtype.element_ty)
                    tl.store(following + place, rounded, mask=d_mask & whole & (tile < last))
            source, known = target, True
            if HAS_Z:
                gated = ()
                for t in tl.static_range(TILE):
                    gate = gates[t].to(tl.float32)
                    gated = gated + (outs[t] * gate * sigmoid(gate, PTX),)
                outs = gated
            store_rows(y + first * channels + d, channels, count, d_mask, outs, TILE)
        if NEED_FINAL:
            if last < 0:
                for n in range(N):
                    state = tl.load(source + n * channels + d, mask=d_mask & known, other=0.0)
                    tl.store(final + sequence * plane + n * channels + d, state, mask=d_mask)
