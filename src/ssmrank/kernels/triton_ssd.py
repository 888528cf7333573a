"""Mamba-2's mixer over packed sequences on a GPU, in Triton; forward only, with states given and handed on.

Two kernels. `_sequence_kernel` takes a head through a sequence, chunk after chunk, the state [N, P] in registers; it
begins with any row of the given states and writes the last one where asked. `_suffix_kernel` is for many short
sequences that begin with the same state, as the queries of a document do: a program loads the state of a head once and
takes all of these sequences in tiles of whole sequences, several in each, and writes no state.

Within a tile y = M x + decays · C S with M = (C Bᵀ ∘ decays) · Δ, as in `ssd_cpu`. Products are computed in x's dtype
with float32 sums (float32 inputs in full precision), decays and states in float32.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmrank.kernels.packing import sequence_index

TILE = 64
"""Tokens of a tile, and of the longest sequence that counts as short."""

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


def supports(width: int, states: int) -> bool:
    """Whether heads of this width and number of states are tiles of tensor cores."""
    return all(size in (16, 32, 64, 128) for size in (width, states))


@triton.jit
def _softplus(x):  # type: ignore[no-untyped-def]
    small = tl.exp2(-tl.abs(x) * LOG2_E)
    one = 1.0 + small
    rest = tl.where(one == 1.0, small, tl.log(one) * (small / tl.where(one == 1.0, 1.0, one - 1.0)))
    return tl.maximum(x, 0.0) + rest


@triton.jit
def _tile(  # type: ignore[no-untyped-def]
    x, dt, B, C, first, end, head, group, rate, bias, x_stride, dt_stride, B_stride, C_stride,
    P: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A tile's tokens of one head: their places, whether they are real, x, B, C, Δ and log2 decays."""
    t = first + tl.arange(0, TILE)
    p, n = tl.arange(0, P), tl.arange(0, N)
    real = t < end
    xs = tl.load(x + t[:, None] * x_stride + head * P + p[None, :], mask=real[:, None], other=0.0)
    bs = tl.load(B + t[:, None] * B_stride + group * N + n[None, :], mask=real[:, None], other=0.0)
    cs = tl.load(C + t[:, None] * C_stride + group * N + n[None, :], mask=real[:, None], other=0.0)
    step = _softplus(tl.load(dt + t * dt_stride + head, mask=real, other=0.0).to(tl.float32) + bias)
    step = tl.where(real, step, 0.0)
    return t, real, xs, bs, cs, step, step * rate * LOG2_E


@triton.jit
def _sequence_kernel(  # type: ignore[no-untyped-def]
    x, dt, A, B, C, D, dt_bias, starts, initial, index, y, final, x_stride, dt_stride, B_stride, C_stride,
    heads, per_group, P: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, HAS_D: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_INDEX: tl.constexpr, NEED_FINAL: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    sequence, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    rate = tl.load(A + head).to(tl.float32)
    bias = tl.load(dt_bias + head).to(tl.float32) if HAS_BIAS else 0.0
    place = tl.arange(0, N)[:, None] * P + tl.arange(0, P)[None, :]
    matrix = N * P
    state = tl.zeros([N, P], tl.float32)
    if HAS_INDEX:
        row = tl.load(index + sequence)
        known = (place >= 0) & (row >= 0)
        state = tl.load(initial + (row * heads + head) * matrix + place, mask=known, other=0.0)
    elif HAS_INITIAL:
        state = tl.load(initial + (sequence * heads + head) * matrix + place)
    i = tl.arange(0, TILE)
    for first in range(start, end, TILE):
        t, real, xs, bs, cs, step, decay = _tile(
            x, dt, B, C, first, end, head, head // per_group, rate, bias, x_stride, dt_stride, B_stride, C_stride,
            P, N, TILE,
        )  # fmt: skip
        sums = tl.cumsum(decay, 0)
        last = tl.sum(decay, 0)
        precision: tl.constexpr = "ieee" if EXACT else "tf32"
        grid = tl.dot(cs, tl.trans(bs), input_precision=precision)
        weight = tl.exp2(tl.minimum(sums[:, None] - sums[None, :], 0.0)) * step[None, :]
        grid = tl.where(i[:, None] >= i[None, :], grid * weight, 0.0)
        out = tl.dot(cs, state.to(cs.dtype), input_precision=precision) * tl.exp2(sums)[:, None]
        out += tl.dot(grid.to(xs.dtype), xs, input_precision=precision)
        if HAS_D:
            out += tl.load(D + head).to(tl.float32) * xs.to(tl.float32)
        target = y + (t[:, None] * heads + head) * P + tl.arange(0, P)[None, :]
        tl.store(target, out.to(y.dtype.element_ty), mask=real[:, None])
        kept = (bs.to(tl.float32) * (tl.exp2(last - sums) * step)[:, None]).to(xs.dtype)
        state = state * tl.exp2(last) + tl.dot(tl.trans(kept), xs, input_precision=precision)
    if NEED_FINAL:
        tl.store(final + (sequence * heads + head) * matrix + place, state)


@triton.jit
def _suffix_kernel(  # type: ignore[no-untyped-def]
    x, dt, A, B, C, D, dt_bias, starts, sequences, bounds, initial, y, x_stride, dt_stride, B_stride, C_stride,
    heads, per_group, P: tl.constexpr, N: tl.constexpr, TILE: tl.constexpr, HAS_D: tl.constexpr,
    HAS_BIAS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = tl.load(starts + tl.load(bounds + row))
    end = tl.load(starts + tl.load(bounds + row + 1))
    rate = tl.load(A + head).to(tl.float32)
    bias = tl.load(dt_bias + head).to(tl.float32) if HAS_BIAS else 0.0
    place = tl.arange(0, N)[:, None] * P + tl.arange(0, P)[None, :]
    i = tl.arange(0, TILE)
    if first < end:
        state = tl.load(initial + (row * heads + head) * (N * P) + place).to(x.dtype.element_ty)
        while first < end:
            # The tile ends where the sequence begins that would not fit whole.
            last = tl.minimum(first + TILE, end)
            if last < end:
                last = tl.load(starts + tl.load(sequences + last))
            t, real, xs, bs, cs, step, decay = _tile(
                x, dt, B, C, first, last, head, head // per_group, rate, bias, x_stride, dt_stride, B_stride, C_stride,
                P, N, TILE,
            )  # fmt: skip
            own = tl.load(sequences + t, mask=real, other=-1)
            past = (own[:, None] == own[None, :]) & (i[:, None] >= i[None, :])
            sums = tl.sum(tl.where(past, decay[None, :], 0.0), 1)
            precision: tl.constexpr = "ieee" if EXACT else "tf32"
            grid = tl.dot(cs, tl.trans(bs), input_precision=precision)
            weight = tl.exp2(tl.minimum(sums[:, None] - sums[None, :], 0.0)) * step[None, :]
            grid = tl.where(past, grid * weight, 0.0)
            out = tl.dot(cs, state, input_precision=precision) * tl.exp2(sums)[:, None]
            out += tl.dot(grid.to(xs.dtype), xs, input_precision=precision)
            if HAS_D:
                out += tl.load(D + head).to(tl.float32) * xs.to(tl.float32)
            target = y + (t[:, None] * heads + head) * P + tl.arange(0, P)[None, :]
            tl.store(target, out.to(y.dtype.element_ty), mask=real[:, None])
            first = last


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    cu_seqlens: Tensor,
    initial_states: Tensor | None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    *,
    need_final: bool,
    longest: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """See `packed_ssd`; x, B and C in one dtype, y in it.

    longest: tokens of the longest sequence, if the host knows it. Up to `TILE` the sequences may be taken as suffixes,
    for which those with one row have to lie side by side, in the order of rows, and all have one.
    """
    (tokens, heads, width), (groups, states) = x.shape, B.shape[1:]
    x, B, C = (_rows(tensor) for tensor in (x, B, C))
    dt = dt if dt.stride(1) == 1 else dt.contiguous()
    starts = cu_seqlens.to(x.device, torch.int64).contiguous()
    sequences = len(starts) - 1
    initial = None if initial_states is None else initial_states.transpose(2, 3).float().contiguous()
    index = None if initial_index is None else initial_index.contiguous()
    y = x.new_empty(tokens, heads, width) if out is None else out
    final = x.new_empty(sequences, heads, states, width, dtype=torch.float32) if need_final else None
    strides = (x.stride(0), dt.stride(0), B.stride(0), C.stride(0))
    options = {
        "P": width, "N": states, "TILE": TILE, "HAS_D": D is not None, "HAS_BIAS": dt_bias is not None,
        "EXACT": x.dtype == torch.float32, "num_warps": 4, "num_stages": 1,
    }  # fmt: skip
    per_group = heads // groups
    if initial is not None and index is not None and not need_final and longest is not None and longest <= TILE:
        rows = torch.arange(len(initial) + 1, device=index.device)
        bounds = torch.searchsorted(index, rows)
        _suffix_kernel[len(initial), heads](
            x, dt, A, B, C, D, dt_bias, starts, sequence_index(starts, tokens), bounds, initial, y, *strides,
            heads, per_group, **options,
        )  # fmt: skip
    elif sequences:
        _sequence_kernel[sequences, heads](
            x, dt, A, B, C, D, dt_bias, starts, initial, index, y, final, *strides, heads, per_group,
            HAS_INITIAL=initial is not None, HAS_INDEX=index is not None, NEED_FINAL=need_final, **options,
        )  # fmt: skip
    return y, None if final is None else final.transpose(2, 3)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
