"""What both directions of the Triton selective scan share: tiles of TILE tokens, rows of a tile, sums over lanes.

A row is a tensor of one token's channels, `[BLOCK]` float32, with one or more channels in each lane of one warp. The
rows of a tile are a tuple of TILE rows. Loops over tokens are unrolled, so that all loads of a tile are issued at once
and results stay in registers.

B and C are rearranged as tiles too, zero after the sequence's end. For each state, the values of TILE tokens are
contiguous, so that a lane loads those of four tokens at once. A sequence's tiles begin at slot start // TILE + its
number, so tiles of different sequences never overlap. B and C in bfloat16 are packed without conversion, int32
`[slots, N, TILE]` with B in the upper half of a word and C in the lower, which halves the number of loads. Other dtypes
become float32 `[slots, N, 2, TILE]`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ssmrank.kernels.gpu.tiles import LOG2_E, exp2, reciprocal

LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)

SPREAD = 32
"""Programs that share one sequence's tiles in the kernels that rearrange B, C and their gradients."""


@triton.jit
def softplus(x, PTX: tl.constexpr):  # type: ignore[no-untyped-def]
    """log(1 + e^x) with a small relative error at both ends.

    log(1 + s) = 2 artanh(t) with t = s / (2 + s) between 0 and 1/3, where the polynomial's relative error is 4e-9.
    """
    small = exp2(-tl.abs(x) * LOG2_E, PTX)
    t = small * reciprocal(2.0 + small, PTX)
    w = t * t
    series = 0.6666631698608398 + w * (0.40024852752685547 + w * (0.2796141803264618 + w * 0.2817465662956238))
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + (t * (w * series) + 2.0 * t)


@triton.jit
def load_start(first, second, place, mask, known):  # type: ignore[no-untyped-def]
    """What a state needs at a tile's start: the values at `place` of `first` (zeros unless `known`) and of `second`."""
    return tl.load(first + place, mask=mask & known, other=0.0), tl.load(second + place, mask=mask, other=0.0)


@triton.jit
def load_vector(base, lane, TILE: tl.constexpr, PTX: tl.constexpr):  # type: ignore[no-untyped-def]
    """TILE contiguous float32 or int32 values, each in all lanes; `base` is aligned to 16 bytes."""
    values = ()
    if PTX:
        address = base.to(tl.int64) + lane * 0
        for _ in tl.static_range(TILE // 4):
            words = tl.inline_asm_elementwise(
                "ld.global.v4.b32 {$0, $1, $2, $3}, [$4];",
                "=r,=r,=r,=r,l",
                [address],
                dtype=(tl.int32, tl.int32, tl.int32, tl.int32),
                is_pure=True,
                pack=1,
            )
            for t in tl.static_range(4):
                values = values + (words[t].to(base.dtype.element_ty, bitcast=True),)
            address += 16
    else:
        for t in tl.static_range(TILE):
            values = values + (tl.load(base + t),)
    return values


@triton.jit
def _upper(words):  # type: ignore[no-untyped-def]
    return (words & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _lower(words):  # type: ignore[no-untyped-def]
    return (words << 16).to(tl.float32, bitcast=True)


@triton.jit
def plane_of(tiles, N: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Elements from one slot to the next."""
    PLANES: tl.constexpr = 1 if tiles.dtype.element_ty == tl.int32 else 2
    return PLANES * N * TILE


@triton.jit
def load_words(vectors, n, lane, TILE: tl.constexpr, PTX: tl.constexpr):  # type: ignore[no-untyped-def]
    """What a tile stores for state n: TILE words, or the TILE values of B and then those of C."""
    if vectors.dtype.element_ty == tl.int32:
        return load_vector(vectors + n * TILE, lane, TILE, PTX)
    else:
        own = vectors + n * (2 * TILE)
        return load_vector(own, lane, TILE, PTX) + load_vector(own + TILE, lane, TILE, PTX)


@triton.jit
def projections_of(words, t: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """B and C of token t, the same in all lanes."""
    if words[0].dtype == tl.int32:
        return _upper(words[t]), _lower(words[t])
    else:
        return words[t], words[TILE + t]


@triton.jit
def lanes(values):  # type: ignore[no-untyped-def]
    """Number of the lane that holds each of the values."""
    return tl.inline_asm_elementwise("mov.u32 $0, %laneid;", "=r,f", [values], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def _from_lane(values, DISTANCE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The values of the lane whose number differs in the bit DISTANCE."""
    return tl.inline_asm_elementwise(
        "shfl.sync.bfly.b32 $0, $1, $2, 0x1f, 0xffffffff;",
        "=f,f,r",
        [values, DISTANCE],
        dtype=tl.float32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def _exchange(low, high, upper, DISTANCE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Lanes DISTANCE apart add their values: the upper ones those of `high`, the others those of `low`."""
    return tl.where(upper, high, low) + _from_lane(tl.where(upper, low, high), DISTANCE)


@triton.jit
def fold(rows, lane, TILE: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sums TILE rows over lanes: lane l gets row l // (32 / TILE), summed over lanes with equal l % (32 / TILE).

    To sum each row separately takes 5 TILE exchanges between lanes. Here pairs of lanes split the rows between them at
    each step, which takes fewer than TILE exchanges.
    """
    if BLOCK > 32:
        narrow = ()
        for row in tl.static_range(TILE):
            narrow = narrow + (tl.sum(tl.reshape(rows[row], [32, BLOCK // 32]), axis=1),)
        rows = narrow
    for level in tl.static_range(4):
        if (TILE >> level) > 1:
            upper = (lane & (16 >> level)) != 0
            halved = ()
            for row in tl.static_range(TILE >> (level + 1)):
                halved = halved + (_exchange(rows[row], rows[row + (TILE >> (level + 1))], upper, 16 >> level),)
            rows = halved
    return rows[0]


@triton.jit
def store_sums(base, first, second, lane, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Stores `[2, TILE]`: the sums over all lanes of two tuples of rows that `fold` has folded."""
    GROUP: tl.constexpr = 32 // TILE
    both = _exchange(first, second, (lane & (GROUP // 2)) != 0, GROUP // 2)
    for level in tl.static_range(2, 5):
        if (GROUP >> level) > 0:
            both += _from_lane(both, GROUP >> level)
    place = lane % GROUP // (GROUP // 2) * TILE + lane // GROUP
    tl.store(base + place, both, mask=lane % (GROUP // 2) == 0)


@triton.jit
def store_plain_sums(base, rows, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Stores `[TILE]`: the sums of rows, where lanes cannot exchange values."""
    for t in tl.static_range(TILE):
        tl.store(base + t, tl.sum(rows[t], axis=0))


@triton.jit
def projections_kernel(  # type: ignore[no-untyped-def]
    B, C, starts, tiles, B_stride, C_stride, N: tl.constexpr, NP: tl.constexpr, TILE: tl.constexpr
):
    """Writes B and C as tiles."""
    sequence = tl.program_id(0)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    inside, n = tl.arange(0, TILE), tl.arange(0, NP)
    for tile in range(tl.program_id(1), tl.cdiv(end - start, TILE), tl.num_programs(1)):
        rows = start + tile * TILE + inside
        mask = (rows < end)[None, :] & (n < N)[:, None]
        target = tiles + (start // TILE + sequence + tile) * plane_of(tiles, N, TILE)
        b = tl.load(B + rows[None, :] * B_stride + n[:, None], mask=mask, other=0.0)
        c = tl.load(C + rows[None, :] * C_stride + n[:, None], mask=mask, other=0.0)
        if tiles.dtype.element_ty == tl.int32:
            upper, lower = b.to(tl.int16, bitcast=True).to(tl.int32), c.to(tl.int16, bitcast=True).to(tl.int32)
            words = (upper << 16) | (lower & 65535)
            tl.store(target + n[:, None] * TILE + inside[None, :], words, mask=(n < N)[:, None])
        else:
            own = target + n[:, None] * (2 * TILE) + inside[None, :]
            tl.store(own, b.to(tl.float32), mask=(n < N)[:, None])
            tl.store(own + TILE, c.to(tl.float32), mask=(n < N)[:, None])


@triton.jit(do_not_specialize=["blocks", "size"])
def projections_backward_kernel(  # type: ignore[no-untyped-def]
    parts, starts, grad_B, grad_C, blocks, size, B_stride, C_stride,
    N: tl.constexpr, NP: tl.constexpr, TILE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Gradients of B and C, `[T, N]`, from the tiles `[blocks, slots, N, 2, TILE]` that blocks of channels summed."""
    sequence = tl.program_id(0)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    place = tl.arange(0, 2 * NP * TILE)
    n, inside = place // (2 * TILE), place % TILE
    for tile in range(tl.program_id(1), tl.cdiv(end - start, TILE), tl.num_programs(1)):
        own = parts + (start // TILE + sequence + tile) * (2 * N * TILE) + place
        total = tl.zeros([2 * NP * TILE], tl.float32)
        for block in range(0, blocks, PARTS):
            part = block + tl.arange(0, PARTS)
            mask = (part < blocks)[:, None] & (n < N)[None, :]
            total += tl.sum(tl.load(own[None, :] + part[:, None] * size, mask=mask, other=0.0), axis=0)
        row = start + tile * TILE + inside
        real = (row < end) & (n < N)
        first = place % (2 * TILE) < TILE
        tl.store(grad_B + row * B_stride + n, total.to(grad_B.dtype.element_ty), mask=real & first)
        tl.store(grad_C + row * C_stride + n, total.to(grad_C.dtype.element_ty), mask=real & (first == 0))
