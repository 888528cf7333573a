"""The Triton selective scan's backward kernel."""

from __future__ import annotations

import triton
import triton.language as tl

from ssmrank.kernels.gpu.tiles import LOG2_E, exp2, load_rows, sigmoid, store_rows
from ssmrank.kernels.selective_scan.gpu_forward import run_tile, steps_and_drives
from ssmrank.kernels.selective_scan.gpu_tiles import (
    LN_2,
    fold,
    lanes,
    load_start,
    load_words,
    plane_of,
    projections_of,
    store_plain_sums,
    store_sums,
)


@triton.jit(do_not_specialize=["slots", "sequences", "groups"])
def backward_kernel(  # type: ignore[no-untyped-def]
    u, delta, A, D, z, bias, starts, initial, tiles, stored, scratch, grad_y, grad_final,
    grad_u, grad_delta, grad_z, y, parts, sums, grad_initial,
    slots, sequences, groups,
    u_stride: tl.constexpr, delta_stride: tl.constexpr, z_stride: tl.constexpr, grad_stride: tl.constexpr,
    grad_z_stride: tl.constexpr, channels: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    CHUNK: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr,
    HAS_FINAL: tl.constexpr, NEED_INITIAL: tl.constexpr, NEED_Y: tl.constexpr, EVEN: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Processes one sequence after another for a block of channels, from their ends, tile by tile.

    `scratch` `[groups, CHUNK / TILE, N, channels]` holds the states' gradients between tiles, and the states at the
    starts of a chunk's tiles, except the first tile's, which are in `stored`. `stored` is float32, or any dtype where a
    chunk is one tile and no sequence has an initial state. `sums` `[groups, N + 2, channels]` gets the gradients of A,
    D and the bias; A's must be zero before. `y` gets the gated output again. `y` may be the memory of `grad_y`, and
    `grad_delta` that of delta: a tile is read before it is written, and not read after.
    """
    PER_CHUNK: tl.constexpr = CHUNK // TILE
    block, group = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    fold_lane = tl.arange(0, 32)
    d = block * BLOCK + lane
    d_mask = EVEN | (d < channels)
    plane = tl.full([], channels, tl.int64) * N
    skip = tl.zeros([BLOCK], tl.float32)
    if HAS_D:
        skip = tl.load(D + d, mask=d_mask, other=0.0)
    shift = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + d, mask=d_mask, other=0.0)
    if PTX:
        # Lanes exchange values by lane number. Where the compiler lays channels out differently, all becomes NaN.
        misplaced = tl.sum((lanes(shift) != lane // (BLOCK // 32)).to(tl.int32))
        shift = tl.where(misplaced == 0, shift, float("nan"))
    # Each block of channels has its own sums of the gradients of B and C.
    parts += block.to(tl.int64) * slots * (2 * N * TILE)
    own = scratch + group * (PER_CHUNK * plane)
    rates_grad = sums + group * (plane + 2 * channels)
    skip_grad = tl.zeros([BLOCK], tl.float32)
    shift_grad = tl.zeros([BLOCK], tl.float32)
    for sequence in range(group, sequences, groups):
        start = tl.load(starts + sequence)
        end = tl.load(starts + sequence + 1)
        source, known = own, tl.program_id(0) < 0
        if HAS_FINAL:
            source, known = grad_final + sequence * plane, True
        chunks = tl.cdiv(end - start, CHUNK)
        for chunk_back in range(0, chunks):
            chunk = chunks - 1 - chunk_back
            opening, opened = stored + (start // CHUNK + sequence + chunk) * plane, chunk >= 0
            if chunk == 0:
                if HAS_INITIAL:
                    opening = initial + sequence * plane
                else:
                    opened = chunk < 0
            in_chunk = tl.cdiv(tl.minimum(end - start - chunk * CHUNK, CHUNK), TILE).to(tl.int32)
            slot = start // TILE + sequence + chunk * PER_CHUNK
            if PER_CHUNK > 1:
                for tile in range(0, in_chunk - 1):
                    first = start + chunk * CHUNK + tile * TILE
                    delta_rows = load_rows(delta + first * delta_stride + d, delta_stride, TILE, d_mask, TILE)
                    u_rows = load_rows(u + first * u_stride + d, u_stride, TILE, d_mask, TILE)
                    steps, drives = steps_and_drives(delta_rows, u_rows, shift, TILE, TILE, PTX)
                    vectors = tiles + (slot + tile) * plane_of(tiles, N, TILE)
                    before, begun = opening, opened
                    if tile > 0:
                        before, begun = own + tile * plane, chunk >= 0
                    run_tile(
                        before, begun, own + (tile + 1) * plane, A, steps, drives, vectors, lane, d, d_mask,
                        channels, N, TILE, PTX,
                    )  # fmt: skip
            for tile_back in range(0, in_chunk):
                tile = in_chunk - 1 - tile_back
                first = start + chunk * CHUNK + tile * TILE
                count = (end - first).to(tl.int32)
                delta_rows = load_rows(delta + first * delta_stride + d, delta_stride, count, d_mask, TILE)
                u_rows = load_rows(u + first * u_stride + d, u_stride, count, d_mask, TILE)
                grad_rows = load_rows(grad_y + first * grad_stride + d, grad_stride, count, d_mask, TILE)
                if HAS_Z:
                    gates = load_rows(z + first * z_stride + d, z_stride, count, d_mask, TILE)
                steps, drives = steps_and_drives(delta_rows, u_rows, shift, count, TILE, PTX)
                grads, outs, drive_grads, step_grads = (), (), (), ()
                for t in tl.static_range(TILE):
                    grad = grad_rows[t].to(tl.float32)
                    if HAS_Z:
                        gate = gates[t].to(tl.float32)
                        grad = grad * gate * sigmoid(gate, PTX)
                        outs = outs + (skip * u_rows[t].to(tl.float32),)
                    grads = grads + (grad,)
                    drive_grads = drive_grads + (tl.zeros([BLOCK], tl.float32),)
                    step_grads = step_grads + (tl.zeros([BLOCK], tl.float32),)
                before, begun = opening, opened
                if PER_CHUNK > 1:
                    if tile > 0:
                        before, begun = own + tile * plane, chunk >= 0
                target, handed = own, chunk >= 0
                if (chunk == 0) & (tile == 0):
                    if NEED_INITIAL:
                        target = grad_initial + sequence * plane
                    else:
                        handed = chunk < 0
                vectors = tiles + (slot + tile) * plane_of(tiles, N, TILE)
                totals = parts + (slot + tile) * (2 * N * TILE)
                ahead = load_start(before, A, d, d_mask, begun) + load_start(source, rates_grad, d, d_mask, known)
                for n in range(N):
                    place = n * channels + d
                    state, rate, carry, rate_grad = ahead
                    mask = d_mask & (n + 1 < N)
                    ahead = load_start(before, A, place + channels, mask, begun)
                    ahead = ahead + load_start(source, rates_grad, place + channels, mask, known)
                    state = state.to(tl.float32)
                    rate *= LOG2_E
                    words = load_words(vectors, n, lane, TILE, PTX)
                    decays, befores, c_grads, added = (), (), (), ()
                    for t in tl.static_range(TILE):
                        b, c = projections_of(words, t, TILE)
                        decay = exp2(steps[t] * rate, PTX)
                        decays = decays + (decay,)
                        befores = befores + (state,)
                        state = decay * state + drives[t] * b
                        c_grads = c_grads + (grads[t] * state,)
                        if HAS_Z:
                            added = added + (outs[t] + state * c,)
                    outs = added
                    if PTX:
                        c_grad = fold(c_grads, fold_lane, TILE, BLOCK)
                    else:
                        store_plain_sums(totals + n * (2 * TILE) + TILE, c_grads, TILE)
                    b_grads, drives_added, steps_added = (), (), ()
                    for back in tl.static_range(TILE):
                        b, c = projections_of(words, TILE - 1 - back, TILE)
                        carry += grads[TILE - 1 - back] * c
                        b_grads = (carry * drives[TILE - 1 - back],) + b_grads
                        drives_added = (drive_grads[TILE - 1 - back] + carry * b,) + drives_added
                        carry *= decays[TILE - 1 - back]
                        product = carry * befores[TILE - 1 - back]
                        rate_grad += product * steps[TILE - 1 - back]
                        steps_added = (step_grads[TILE - 1 - back] + product * rate,) + steps_added
                    drive_grads, step_grads = drives_added, steps_added
                    if PTX:
                        b_grad = fold(b_grads, fold_lane, TILE, BLOCK)
                        store_sums(totals + n * (2 * TILE), b_grad, c_grad, fold_lane, TILE)
                    else:
                        store_plain_sums(totals + n * (2 * TILE), b_grads, TILE)
                    tl.store(target + place, carry, mask=d_mask & handed)
                    tl.store(rates_grad + place, rate_grad, mask=d_mask)
                source, known = target, True
                # Loaded again, masks included, instead of held in registers meanwhile.
                count = (tl.load(starts + sequence + 1) - first).to(tl.int32)
                delta_rows = load_rows(delta + first * delta_stride + d, delta_stride, count, d_mask, TILE)
                u_rows = load_rows(u + first * u_stride + d, u_stride, count, d_mask, TILE)
                if HAS_Z:
                    grad_rows = load_rows(grad_y + first * grad_stride + d, grad_stride, count, d_mask, TILE)
                    gates = load_rows(z + first * z_stride + d, z_stride, count, d_mask, TILE)
                u_grads, delta_grads, gate_grads, gated = (), (), (), ()
                for t in tl.static_range(TILE):
                    value = u_rows[t].to(tl.float32)
                    if HAS_Z:
                        gate = gates[t].to(tl.float32)
                        open_ = sigmoid(gate, PTX)
                        slope = open_ * (1.0 + gate * (1.0 - open_))
                        gate_grads = gate_grads + (grad_rows[t].to(tl.float32) * outs[t] * slope,)
                        if NEED_Y:
                            gated = gated + (outs[t] * gate * open_,)
                    step_grad = step_grads[t] * LN_2 + drive_grads[t] * value
                    step_grad *= sigmoid(delta_rows[t].to(tl.float32) + shift, PTX)
                    shift_grad += tl.where(t < count, step_grad, 0.0)
                    skip_grad += grads[t] * value
                    delta_grads = delta_grads + (step_grad,)
                    u_grads = u_grads + (drive_grads[t] * steps[t] + grads[t] * skip,)
                store_rows(grad_u + first * channels + d, channels, count, d_mask, u_grads, TILE)
                store_rows(grad_delta + first * channels + d, channels, count, d_mask, delta_grads, TILE)
                if HAS_Z:
                    store_rows(grad_z + first * grad_z_stride + d, grad_z_stride, count, d_mask, gate_grads, TILE)
                    if NEED_Y:
                        store_rows(y + first * channels + d, channels, count, d_mask, gated, TILE)
        if NEED_INITIAL:
            if chunks == 0:
                for n in range(N):
                    carry = tl.load(source + n * channels + d, mask=d_mask & known, other=0.0)
                    tl.store(grad_initial + sequence * plane + n * channels + d, carry, mask=d_mask)
    tl.store(rates_grad + plane + d, skip_grad, mask=d_mask)
    tl.store(rates_grad + plane + channels + d, shift_grad, mask=d_mask)
