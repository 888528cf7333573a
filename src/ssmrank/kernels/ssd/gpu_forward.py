"""The forward pass of Mamba-2's mixer over packed sequences on a GPU, in Triton; `gpu` says how it works."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ssmrank.kernels.ssd.gpu_tiles import (
    chunk_decays,
    chunk_of,
    described,
    launch,
    load_tile,
    may_be_copied,
    precision_of,
)
from ssmrank.kernels.ssd.inputs import SSDInputs

CHUNK = 64
"""Tokens of a chunk."""

FORWARD: dict[str, int] = {"num_warps": 4, "num_stages": 2}


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x, B, C, decays, D, starts, initial, index, y, final, x_stride, B_stride, C_stride, heads, per_group,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, HAS_D: tl.constexpr, HAS_INITIAL: tl.constexpr,
    HAS_INDEX: tl.constexpr, NEED_FINAL: tl.constexpr, PRECISION: tl.constexpr, COPIED: tl.constexpr,
):  # fmt: skip
    """Computes y and the last state.

    Products are transposed, so that the state, `[P, N]`, is a product's first operand, which comes from registers.

    COPIED: x, B and C are tensor descriptors. Rows after the sequence's end then belong to the next sequence and are
    not zeros. Steps are zero there, so the rows are multiplied by 0; a NaN among them would still spread.
    """
    head, sequence = tl.program_id(0), tl.program_id(1)
    dtype: tl.constexpr = y.dtype.element_ty
    inside, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    length = (end - start).to(tl.int32)
    skip = 0.0
    if HAS_D:
        skip = tl.load(D + head)
    outside = (sequence * heads + head).to(tl.int64) * (N * P) + p[:, None] * N + n[None, :]
    state = tl.zeros([P, N], tl.float32)
    if HAS_INDEX:
        row = tl.load(index + sequence)
        origin = (row * heads + head).to(tl.int64) * (N * P) + p[:, None] * N + n[None, :]
        state = tl.load(initial + origin, mask=(row >= 0) & (origin == origin), other=0.0).to(tl.float32)
    elif HAS_INITIAL:
        state = tl.load(initial + outside).to(tl.float32)
    group = head // per_group
    if not COPIED:
        x += start * x_stride + head * P
        B += start * B_stride + group * N
        C += start * C_stride + group * N
    y += start * heads * P + head * P
    decays += ((start // Q + sequence) * heads + head) * (2 * Q)
    for first in range(0, length, Q):
        left = length - first
        if COPIED:
            token = start.to(tl.int32) + first
            values = x.load([token, head * P])
            b, c = B.load([token, group * N]), C.load([token, group * N])
        else:
            values = load_tile(x, inside, x_stride, p, left)
            b, c = load_tile(B, inside, B_stride, n, left), load_tile(C, inside, C_stride, n, left)
            x += Q * x_stride
            B += Q * B_stride
            C += Q * C_stride
        total, source, last = tl.load(decays + inside), tl.load(decays + Q + inside), tl.load(decays + Q - 1)
        mixing = tl.dot(b, tl.trans(c), input_precision=PRECISION) * tl.exp2(total[None, :] - source[:, None])
        mixing = tl.where(inside[:, None] <= inside[None, :], mixing, 0.0).to(dtype)
        out = tl.zeros([P, Q], tl.float32)
        if (first > 0) | HAS_INITIAL:
            out = tl.dot(state.to(dtype), tl.trans(c), input_precision=PRECISION) * tl.exp2(total)[None, :]
        out = tl.trans(tl.dot(tl.trans(values), mixing, out, input_precision=PRECISION))
        if HAS_D:
            out += skip * values.to(tl.float32)
        target = y + inside[:, None] * (heads * P) + p[None, :]
        tl.store(target, out.to(y.dtype.element_ty), mask=(inside < left)[:, None])
        if (left > Q) | NEED_FINAL:
            weighed = (tl.trans(values).to(tl.float32) * tl.exp2(last - source)[None, :]).to(dtype)
            state = tl.dot(weighed, b, state * tl.exp2(last), input_precision=PRECISION)
        y += Q * heads * P
        decays += heads * (2 * Q)
    if NEED_FINAL:
        tl.store(final + outside, state)


def run(
    inputs: SSDInputs,
    starts: Tensor,
    initial: Tensor | None = None,
    index: Tensor | None = None,
    *,
    y: Tensor,
    final: Tensor | None = None,
    log: bool = False,
) -> None:
    """Writes y and, where wanted, the final states; `log`: A is the logarithm of its negative.

    Rows of x, dt, B and C may be strided; heads (groups) are contiguous within a row. All other tensors are contiguous.
    """
    x, dt, A, B, C, D, bias = inputs
    (_, heads, width), (_, groups, states), sequences = x.shape, B.shape, len(starts) - 1
    if sequences == 0:
        return
    chunk = chunk_of(x, CHUNK)
    decays, _ = chunk_decays(dt, A, bias, starts, chunk, log=log)
    copied = chunk == CHUNK and may_be_copied(x, B, C)
    tiled = [described(tensor, chunk) for tensor in (x, B, C)] if copied else [x, B, C]
    _forward_kernel[heads, sequences](
        *tiled, decays, D, starts, initial, index, y, final,
        x.stride(0), B.stride(0), C.stride(0), heads, heads // groups,
        P=width, N=states, Q=chunk, HAS_D=D is not None, HAS_INITIAL=initial is not None, HAS_INDEX=index is not None,
        NEED_FINAL=final is not None, PRECISION=precision_of(x), COPIED=copied, **launch(x, FORWARD),
    )  # fmt: skip
