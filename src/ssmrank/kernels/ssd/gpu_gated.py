"""Mamba-2's scan with the convolution of x and the gate on Hopper, in Gluon (Triton's language below tiles).

Forward only, bfloat16. In Gluon because the order of copies and products decides the speed, and Triton's own pipeliner
keeps tiles in registers that this order leaves in shared memory.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ssmrank.kernels.ssd.gpu_tiles import chunk_decays
from ssmrank.kernels.ssd.inputs import SSDInputs

P, N, Q = 64, 128, 64
"""Channels and states of a head, tokens of a chunk."""

_barrier = gl.thread_barrier if hasattr(gl, "thread_barrier") else gl.barrier
"""Waits for all threads of a program; its name changed after Triton 3.6."""

HALF_TANH: gl.constexpr = gl.constexpr(
    """{
    .reg .f32 h, t;
    mul.f32 h, $1, 0f3F000000;
    tanh.approx.f32 t, h;
    fma.rn.f32 $0, h, t, h;
    }"""
)
"""silu(x) = h + h tanh(h) with h = x / 2. The sigmoid is off by up to 3e-4, a tenth of bfloat16's rounding."""

UPPER: gl.constexpr = gl.constexpr(
    """{
    .reg .pred p;
    setp.le.s32 p, $2, $3;
    selp.f32 $0, $1, 0f00000000, p;
    }"""
)
"""A value where its row is not after its column. As a plain comparison it would be kept in registers over the loop."""


@gluon.jit
def _silu(x):  # type: ignore[no-untyped-def]
    return gl.inline_asm_elementwise(HALF_TANH, "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def _upper(value, row, col):  # type: ignore[no-untyped-def]
    return gl.inline_asm_elementwise(UPPER, "=f,f,r,r", [value, row, col], dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def _split4(x):  # type: ignore[no-untyped-def]
    """The parts of x by its last two dimensions, both of size 2."""
    even, odd = gl.split(x)
    x0, x2 = gl.split(even)
    x1, x3 = gl.split(odd)
    return x0, x1, x2, x3


@gluon.jit
def _join4(x0, x1, x2, x3):  # type: ignore[no-untyped-def]
    """The reverse of `_split4`."""
    return gl.join(gl.join(x0, x2), gl.join(x1, x3))


@gluon.jit
def _one(x0, x1, x2, x3, f0, f1, f2, f3, offset):  # type: ignore[no-untyped-def]
    total = offset + f0 * x0 + f1 * x1 + f2 * x2 + f3 * x3
    return _silu(total).to(gl.bfloat16)


@gluon.jit
def _convolved(raw, p1, p2, p3, f0, f1, f2, f3, offset, P: gl.constexpr):  # type: ignore[no-untyped-def]
    """The convolution of 64 rows in shared memory: a warp has 16 rows, a thread two channels of each.

    p1, p2, p3: the rows before the warps' first ones, `[4, P]`; f0 to f3, offset: taps and bias of the channels.
    """
    runs: gl.constexpr = gl.DistributedLinearLayout(
        [[0, 1], [1, 0], [2, 0], [4, 0], [8, 0]],
        [[0, 2], [0, 4], [0, 8], [0, 16], [0, 32]],
        [[16, 0], [32, 0]],
        [],
        [64, P],
    )
    each: gl.constexpr = p1.type.layout
    rows = raw.load(runs).reshape([4, 2, 2, 2, 2, P]).permute([0, 5, 1, 2, 3, 4])
    c0, c1, c2, c3 = _split4(rows)
    r0, r4, r8, r12 = _split4(c0)
    r1, r5, r9, r13 = _split4(c1)
    r2, r6, r10, r14 = _split4(c2)
    r3, r7, r11, r15 = _split4(c3)
    x0 = gl.convert_layout(r0, each).to(gl.float32)
    x1 = gl.convert_layout(r1, each).to(gl.float32)
    x2 = gl.convert_layout(r2, each).to(gl.float32)
    x3 = gl.convert_layout(r3, each).to(gl.float32)
    y0 = _one(x0, p1, p2, p3, f0, f1, f2, f3, offset)
    y1 = _one(x1, x0, p1, p2, f0, f1, f2, f3, offset)
    y2 = _one(x2, x1, x0, p1, f0, f1, f2, f3, offset)
    y3 = _one(x3, x2, x1, x0, f0, f1, f2, f3, offset)
    x4 = gl.convert_layout(r4, each).to(gl.float32)
    x5 = gl.convert_layout(r5, each).to(gl.float32)
    x6 = gl.convert_layout(r6, each).to(gl.float32)
    x7 = gl.convert_layout(r7, each).to(gl.float32)
    y4 = _one(x4, x3, x2, x1, f0, f1, f2, f3, offset)
    y5 = _one(x5, x4, x3, x2, f0, f1, f2, f3, offset)
    y6 = _one(x6, x5, x4, x3, f0, f1, f2, f3, offset)
    y7 = _one(x7, x6, x5, x4, f0, f1, f2, f3, offset)
    x8 = gl.convert_layout(r8, each).to(gl.float32)
    x9 = gl.convert_layout(r9, each).to(gl.float32)
    x10 = gl.convert_layout(r10, each).to(gl.float32)
    x11 = gl.convert_layout(r11, each).to(gl.float32)
    y8 = _one(x8, x7, x6, x5, f0, f1, f2, f3, offset)
    y9 = _one(x9, x8, x7, x6, f0, f1, f2, f3, offset)
    y10 = _one(x10, x9, x8, x7, f0, f1, f2, f3, offset)
    y11 = _one(x11, x10, x9, x8, f0, f1, f2, f3, offset)
    x12 = gl.convert_layout(r12, each).to(gl.float32)
    x13 = gl.convert_layout(r13, each).to(gl.float32)
    x14 = gl.convert_layout(r14, each).to(gl.float32)
    x15 = gl.convert_layout(r15, each).to(gl.float32)
    y12 = _one(x12, x11, x10, x9, f0, f1, f2, f3, offset)
    y13 = _one(x13, x12, x11, x10, f0, f1, f2, f3, offset)
    y14 = _one(x14, x13, x12, x11, f0, f1, f2, f3, offset)
    y15 = _one(x15, x14, x13, x12, f0, f1, f2, f3, offset)
    out = _join4(_join4(y0, y4, y8, y12), _join4(y1, y5, y9, y13), _join4(y2, y6, y10, y14), _join4(y3, y7, y11, y15))
    return out.permute([0, 2, 3, 4, 5, 1]).reshape([64, P])


@gluon.jit
def _before(x, x_stride, first, back, start, end, columns, each: gl.constexpr):  # type: ignore[no-untyped-def]
    """x of the token `back` before each warp's run of 16 tokens from `first` on, zero outside of the sequence."""
    token = first + gl.arange(0, 4, gl.SliceLayout(1, each)) * 16 - back
    real = (token >= start) & (token < end)
    place = token.to(gl.int64)[:, None] * x_stride + columns[None, :]
    return gl.load(x + place, mask=real[:, None], other=0.0)


@gluon.jit
def _fetch(tiles, tile, bar, token, column, wanted):  # type: ignore[no-untyped-def]
    """Copies a tile to shared memory; the barrier flips when it has arrived."""
    mbarrier.expect(bar, tile.shape[0] * tile.shape[1] * 2, wanted)
    tma.async_copy_global_to_shared(tiles, [token, column], bar, tile, wanted)


@gluon.jit
def _fetch_two(first, second, first_tile, second_tile, bar, token, column, wanted):  # type: ignore[no-untyped-def]
    mbarrier.expect(bar, first_tile.shape[0] * first_tile.shape[1] * 4, wanted)
    tma.async_copy_global_to_shared(first, [token, column], bar, first_tile, wanted)
    tma.async_copy_global_to_shared(second, [token, column], bar, second_tile, wanted)


@gluon.jit(do_not_specialize=["tokens"])
def _gated_kernel(  # type: ignore[no-untyped-def]
    x, B, C, z, raw, filters, filter_bias, decays, D, starts, y, squares, tokens, heads, per_group, raw_stride,
    P: gl.constexpr, N: gl.constexpr, Q: gl.constexpr,
):  # fmt: skip
    """Writes (ssd + D x) silu(z) and, for each token and head, the sum of its squares.

    x is the convolution's input, at `raw` too. B, C and z have two buffers in shared memory, so that the next chunk's
    are copied while a chunk is computed. Each product ends before the next begins, which leaves enough registers.
    """
    head, sequence = gl.program_id(0), gl.program_id(1)
    square: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, Q, 16])
    wide: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 16])
    left_square: gl.constexpr = gl.DotOperandLayout(0, square, 2)
    left_wide: gl.constexpr = gl.DotOperandLayout(0, wide, 2)
    rows: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    each: gl.constexpr = gl.BlockedLayout([1, 2], [1, 32], [4, 1], [1, 0])
    line: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    tile: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    # The first is what the convolution reads, the second what it writes.
    x_tiles = gl.allocate_shared_memory(gl.bfloat16, [2, Q, P], tile)
    z_tiles = gl.allocate_shared_memory(gl.bfloat16, [2, Q, P], tile)
    b_tiles = gl.allocate_shared_memory(gl.bfloat16, [2, Q, N], tile)
    c_tiles = gl.allocate_shared_memory(gl.bfloat16, [2, Q, N], tile)
    mixed = gl.allocate_shared_memory(gl.bfloat16, [Q, Q], tile)
    sums = gl.allocate_shared_memory(gl.float32, [2 * Q], plain)
    factors = gl.allocate_shared_memory(gl.float32, [2 * Q], plain)
    of_x = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    of_z = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    of_b = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(of_x.index(i), count=1)
        mbarrier.init(of_z.index(i), count=1)
        mbarrier.init(of_b.index(i), count=1)
    fence_async_shared()
    _barrier()

    start = gl.load(starts + sequence)
    length = (gl.load(starts + sequence + 1) - start).to(gl.int32)
    token = start.to(gl.int32)
    begin, end = token, token + length
    column, group = head * P, (head // per_group) * N
    skip = gl.load(D + head)
    decays += ((start // Q + sequence) * heads + head) * (2 * Q)
    place = gl.arange(0, 2 * Q, line)
    chunks = (length + Q - 1) // Q
    if chunks > 0:
        _fetch_two(B, C, b_tiles.index(0), c_tiles.index(0), of_b.index(0), token, group, True)
        _fetch(x, x_tiles.index(0), of_x.index(0), token, column, True)
        _fetch(z, z_tiles.index(0), of_z.index(0), token, column, True)
        channel = column + gl.arange(0, P, gl.SliceLayout(0, each))
        f0 = gl.load(filters + channel * 4 + 3).to(gl.float32)[None, :]
        f1 = gl.load(filters + channel * 4 + 2).to(gl.float32)[None, :]
        f2 = gl.load(filters + channel * 4 + 1).to(gl.float32)[None, :]
        f3 = gl.load(filters + channel * 4).to(gl.float32)[None, :]
        offset = gl.load(filter_bias + channel).to(gl.float32)[None, :]
        p1 = _before(raw, raw_stride, token, 1, begin, end, channel, each)
        p2 = _before(raw, raw_stride, token, 2, begin, end, channel, each)
        p3 = _before(raw, raw_stride, token, 3, begin, end, channel, each)
        ahead, ahead_last = gl.load(decays + place), gl.load(decays + Q - 1)
        state = gl.zeros([P, N], gl.float32, wide)
        row = gl.arange(0, Q, gl.SliceLayout(1, square))[:, None]
        col = gl.arange(0, Q, gl.SliceLayout(0, square))[None, :]
        out_row = gl.arange(0, Q, gl.SliceLayout(1, rows))
        out_col = gl.arange(0, P, gl.SliceLayout(0, rows))
        for chunk in range(0, chunks):
            more = chunk + 1 < chunks
            now, then, phase = chunk % 2, 1 - chunk % 2, (chunk // 2) & 1
            x_raw, x_now, z_now = x_tiles.index(0), x_tiles.index(1), z_tiles.index(now)
            b_now, c_now = b_tiles.index(now), c_tiles.index(now)
            following = token + Q
            # The last chunk's tiles were read before this barrier.
            _barrier()
            _fetch(z, z_tiles.index(then), of_z.index(then), following, column, more)
            _fetch_two(B, C, b_tiles.index(then), c_tiles.index(then), of_b.index(then), following, group, more)
            last = ahead_last
            sums.store(ahead)
            factors.store(gl.exp2(gl.where(place < Q, ahead, last - ahead)))
            decays += heads * (2 * Q)
            ahead = gl.load(decays + place, mask=(place < 2 * Q) & more, other=0.0)
            ahead_last = gl.load(decays + Q - 1, mask=more, other=0.0)
            mbarrier.wait(of_x.index(0), chunk & 1)
            q1, q2, q3 = p1.to(gl.float32), p2.to(gl.float32), p3.to(gl.float32)
            x_now.store(_convolved(x_raw, q1, q2, q3, f0, f1, f2, f3, offset, P))
            fence_async_shared()
            _barrier()
            _fetch(x, x_raw, of_x.index(0), following, column, more)
            p1 = _before(raw, raw_stride, following, 1, begin, end, channel, each)
            p2 = _before(raw, raw_stride, following, 2, begin, end, channel, each)
            p3 = _before(raw, raw_stride, following, 3, begin, end, channel, each)
            empty = gl.zeros([Q, Q], gl.float32, square)
            mbarrier.wait(of_b.index(now), phase)
            scores = warpgroup_mma(b_now, c_now.permute((1, 0)), empty, use_acc=False, is_async=True)
            scores = warpgroup_mma_wait(0, deps=[scores])
            total = sums.slice(0, Q).load(gl.SliceLayout(0, square))
            source = sums.slice(Q, Q).load(gl.SliceLayout(1, square))
            mixed.store(_upper(scores * gl.exp2(total[None, :] - source[:, None]), row, col).to(gl.bfloat16))
            rounded = gl.convert_layout(state.to(gl.bfloat16), left_square)
            out = warpgroup_mma(rounded, c_now.permute((1, 0)), empty, use_acc=False, is_async=True)
            weight = factors.slice(Q, Q).load(gl.SliceLayout(0, left_wide))
            values = x_now.permute((1, 0)).load(left_wide).to(gl.float32)
            weighed = (values * weight[None, :]).to(gl.bfloat16)
            fence_async_shared()
            out = warpgroup_mma_wait(0, deps=[out])
            out = out * factors.slice(0, Q).load(gl.SliceLayout(0, square))[None, :]
            state = state * gl.exp2(last)
            _barrier()
            out = warpgroup_mma(x_now.permute((1, 0)), mixed, out, is_async=True)
            state = warpgroup_mma(weighed, b_now, state, is_async=True)
            out = warpgroup_mma_wait(1, deps=[out])
            _barrier()
            mixed.permute((1, 0)).store(out.to(gl.bfloat16))
            value = mixed.load(rows).to(gl.float32) + skip * x_now.load(rows).to(gl.float32)
            at = token + out_row
            real = out_row < length - chunk * Q
            target = y + (at.to(gl.int64) * heads * P)[:, None] + (column + out_col)[None, :]
            mbarrier.wait(of_z.index(now), phase)
            gated = value * _silu(z_now.load(rows).to(gl.float32))
            gl.store(target, gated.to(gl.bfloat16), mask=real[:, None])
            gl.store(squares + head * tokens + at, gl.sum(gated * gated, axis=1), mask=real)
            state = warpgroup_mma_wait(0, deps=[state])
            token = following


def run(
    inputs: SSDInputs,
    z: Tensor,
    filters: Tensor,
    filter_bias: Tensor | None,
    starts: Tensor,
    *,
    y: Tensor,
    squares: Tensor,
    log: bool = False,
) -> None:
    """Writes y `[T, H, P]` and the sums of its squares, float32 `[H, T]`.

    x is the input of the convolution, B and C are its results. Rows of x, dt, B, C and z may be strided by multiples of
    16 bytes; all other tensors are contiguous. `filters`, `[at least H P, 4]`, and `filter_bias` are of the
    convolution. `log` as in `gpu_forward.run`.
    """
    x, dt, A, B, C, D, bias = inputs
    (tokens, heads, _), groups, sequences = x.shape, B.shape[1], len(starts) - 1
    if sequences == 0:
        return
    assert filters.shape[1] == 4
    if filter_bias is None:
        filter_bias = filters.new_zeros(len(filters))
    decays, _ = chunk_decays(dt, A, bias, starts, Q, log=log)
    tiled = [_described(tensor) for tensor in (x, B, C, z)]
    _gated_kernel[heads, sequences](
        *tiled, x, filters, filter_bias, decays, D, starts, y, squares, tokens, heads, heads // groups, x.stride(0),
        P=P, N=N, Q=Q, num_warps=4,
    )  # fmt: skip


def _described(tensor: Tensor) -> TensorDescriptor:
    tokens, heads, width = tensor.shape
    return TensorDescriptor(
        tensor, [tokens, heads * width], [tensor.stride(0), 1], [Q, width], NVMMASharedLayout(128, 16, 2)
    )
