"""The short causal convolution over packed sequences on a GPU, in Triton, forward and backward.

A program processes runs of tokens for some channels. It keeps the last few tokens in registers, so that each is read
once. The backward pass reads x and the output's gradient, and recomputes the values before the activation. It sums the
filters' gradient in registers too; the programs' sums are added last, without atomics. Nothing waits for the device,
and the launch depends on shapes alone.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels.gpu.rows import dense
from ssmrank.kernels.gpu.sums import add_columns
from ssmrank.kernels.gpu.tiles import load_rows, may_use_ptx, sigmoid, store_rows

FORWARD: dict[str, int] = {"RUN": 64, "TILE": 4, "CHANNELS": 256, "num_warps": 2}
"""Forward pass: tokens of a program, tokens that it loads at once, and its channels."""

LANES = 64
"""Channels of a program of the backward pass, two for each lane of a warp."""

RUN = 64
"""Tokens of a run of the backward pass."""

PROGRAMS = 8448
"""The most programs of a backward pass: 64 of one warp for each multiprocessor of a large GPU."""

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _sequences(starts, tokens, sequences, halvings):  # type: ignore[no-untyped-def]
    """The sequence of each token: the last that does not start after it."""
    low = tokens * 0
    high = low + sequences
    for _ in range(0, halvings):
        middle = (low + high) // 2
        found = tl.load(starts + middle) <= tokens
        low = tl.where(found & (high - low > 1), middle, low)
        high = tl.where(found, high, middle)
        high = tl.maximum(high, low + 1)
    return low


@triton.jit
def _convolved(  # type: ignore[no-untyped-def]
    x0, x1, x2, x3, f0, f1, f2, f3, offset, W: tl.constexpr, SILU: tl.constexpr, PTX: tl.constexpr
):
    """The output of a token: its x is x0, and that of the tokens before it x1 to x3."""
    total = offset + f0 * x0
    total += f1 * x1
    if W == 4:
        total += f2 * x2
        total += f3 * x3
    if SILU:
        total *= sigmoid(total, PTX)
    return total


@triton.jit
def _tile(  # type: ignore[no-untyped-def]
    rows, token, x1, x2, x3, f0, f1, f2, f3, offset, starts, own, start, following, sequences,
    W: tl.constexpr, TILE: tl.constexpr, SILU: tl.constexpr, PTX: tl.constexpr, WATCHED: tl.constexpr,
):  # fmt: skip
    """The outputs of a tile from `token` on, its last three x, and its last token's sequence.

    WATCHED: another sequence may begin within the tile.
    """
    outs = ()
    for t in tl.static_range(TILE):
        if WATCHED and t > 0:
            own, start, following, place = _place(starts, token + t, own, start, following, sequences)
            x1, x2, x3 = _since(x1, x2, x3, place)
        x0 = rows[t].to(tl.float32)
        out = _convolved(x0, x1, x2, x3, f0, f1, f2, f3, offset, W, SILU, PTX)
        outs = outs + (out,)  # type: ignore[assignment]
        x1, x2, x3 = x0, x1, x2
    return outs, x1, x2, x3, own, start, following


@triton.jit
def _conv_forward(  # type: ignore[no-untyped-def]
    x, weight, bias, starts, y, x_stride, tokens, channels, sequences, halvings,
    W: tl.constexpr, RUN: tl.constexpr, TILE: tl.constexpr, CHANNELS: tl.constexpr, HAS_BIAS: tl.constexpr,
    SILU: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """A program processes a run of tokens for some channels, with the last few x in registers."""
    columns = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = columns < channels
    f0, f1, f2, f3, offset = _filters(weight, bias, columns, inside, W, CHANNELS, HAS_BIAS)
    first = tl.program_id(0).to(tl.int64) * RUN
    end = tl.minimum(first + RUN, tokens)
    own, start, following, x1, x2, x3 = _begin(x, starts, first, x_stride, columns, inside, sequences, halvings)
    ahead = load_rows(x + first * x_stride + columns, x_stride, (end - first).to(tl.int32), inside, TILE)
    for token in range(first, end, TILE):
        count = (end - token).to(tl.int32)
        rows = ahead
        ahead = load_rows(x + (token + TILE) * x_stride + columns, x_stride, count - TILE, inside, TILE)
        own, start, following, place = _place(starts, token, own, start, following, sequences)
        x1, x2, x3 = _since(x1, x2, x3, place)
        if token + TILE <= following:
            outs, x1, x2, x3, own, start, following = _tile(
                rows, token, x1, x2, x3, f0, f1, f2, f3, offset, starts, own, start, following, sequences,
                W, TILE, SILU, PTX, False,
            )  # fmt: skip
        else:
            outs, x1, x2, x3, own, start, following = _tile(
                rows, token, x1, x2, x3, f0, f1, f2, f3, offset, starts, own, start, following, sequences,
                W, TILE, SILU, PTX, True,
            )  # fmt: skip
        store_rows(y + token * channels + columns, channels, count, inside, outs, TILE)


@triton.jit
def _filters(  # type: ignore[no-untyped-def]
    weight, bias, columns, inside, W: tl.constexpr, CHANNELS: tl.constexpr, HAS_BIAS: tl.constexpr
):
    """Each channel's taps of the present token and of the three before it, zero where the filter has none; its bias."""
    offset = tl.zeros([CHANNELS], tl.float32)
    if HAS_BIAS:
        offset = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    f0 = tl.load(weight + columns * W + W - 1, mask=inside, other=0.0).to(tl.float32)
    f1 = tl.load(weight + columns * W + W - 2, mask=inside, other=0.0).to(tl.float32)
    f2 = tl.zeros([CHANNELS], tl.float32)
    f3 = tl.zeros([CHANNELS], tl.float32)
    if W == 4:
        f2 = tl.load(weight + columns * W + 1, mask=inside, other=0.0).to(tl.float32)
        f3 = tl.load(weight + columns * W, mask=inside, other=0.0).to(tl.float32)
    return f0, f1, f2, f3, offset


@triton.jit
def _begin(x, starts, first, stride, columns, inside, sequences, halvings):  # type: ignore[no-untyped-def]
    """The sequence of a run's first token (number, start, the next one's start), and x of the three tokens before."""
    own = tl.sum(_sequences(starts, first + tl.zeros([1], tl.int64), sequences, halvings), axis=0)
    start = tl.load(starts + own)
    following = tl.load(starts + own + 1)
    x1 = _at(x, first - 1, stride, columns, inside, first >= 1)
    x2 = _at(x, first - 2, stride, columns, inside, first >= 2)
    x3 = _at(x, first - 3, stride, columns, inside, first >= 3)
    return own, start, following, x1, x2, x3


@triton.jit
def _since(x1, x2, x3, place):  # type: ignore[no-untyped-def]
    """x of the tokens before the token at `place` of its sequence; zero before the sequence's start."""
    return tl.where(place >= 1, x1, 0.0), tl.where(place >= 2, x2, 0.0), tl.where(place >= 3, x3, 0.0)


@triton.jit
def _place(starts, token, own, start, following, sequences):  # type: ignore[no-untyped-def]
    """Advances to the sequence of `token`: its number, its start, the next one's start, and the token's place in it."""
    while (token >= following) & (own + 1 < sequences):
        own += 1
        start = following
        following = tl.load(starts + own + 1)
    return own, start, following, token - start


@triton.jit
def _at(base, token, stride, columns, inside, real):  # type: ignore[no-untyped-def]
    return tl.load(base + token * stride + columns, mask=inside & real, other=0.0).to(tl.float32)


@triton.jit
def _one_back(  # type: ignore[no-untyped-def]
    token, place, counts, stored, x0, x1, x2, x3, grad, p1, p2, p3, f0, f1, f2, f3, offset,
    bias_sum, s0, s1, s2, s3, grad_x, stride, columns, inside, SILU: tl.constexpr,
):  # fmt: skip
    """Adds the gradient at `token` to the gradients of x of the three tokens before (p1 to p3), and to the sums.

    x's gradient three tokens before is then complete and stored. f0 and s0 are of the present token's tap, f3 and s3 of
    the tap of the token three before.
    """
    x1, x2, x3 = _since(x1, x2, x3, place)
    if SILU:
        before = offset + f0 * x0 + f1 * x1 + f2 * x2 + f3 * x3
        open_ = 1.0 / (1.0 + tl.exp2(-before * LOG2_E))
        grad *= open_ * (1.0 + before * (1.0 - open_))
    own = tl.where(counts, grad, 0.0)
    bias_sum += own
    s0 += own * x0
    s1 += own * x1
    s2 += own * x2
    s3 += own * x3
    p1 += tl.where(place >= 1, f1 * grad, 0.0)
    p2 += tl.where(place >= 2, f2 * grad, 0.0)
    p3 += tl.where(place >= 3, f3 * grad, 0.0)
    tl.store(grad_x + (token - 3) * stride + columns, p3.to(grad_x.dtype.element_ty), mask=inside & stored)
    return f0 * grad, p1, p2, bias_sum, s0, s1, s2, s3


@triton.jit
def _conv_backward(  # type: ignore[no-untyped-def]
    x, weight, bias, starts, grad_y, grad_x, sums,
    x_stride, grad_y_stride, grad_x_stride, tokens, channels, sequences, halvings,
    W: tl.constexpr, RUN: tl.constexpr, CHANNELS: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """A program processes runs of tokens for some channels, with the last few x and the sums in registers."""
    columns = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = columns < channels
    f0, f1, f2, f3, offset = _filters(weight, bias, columns, inside, W, CHANNELS, HAS_BIAS)
    bias_sum = tl.zeros([CHANNELS], tl.float32)
    s0 = tl.zeros([CHANNELS], tl.float32)
    s1 = tl.zeros([CHANNELS], tl.float32)
    s2 = tl.zeros([CHANNELS], tl.float32)
    s3 = tl.zeros([CHANNELS], tl.float32)
    for run in range(tl.program_id(0), tl.cdiv(tokens, RUN), tl.num_programs(0)):
        first = tl.full([], RUN, tl.int64) * run
        end = tl.minimum(first + RUN, tokens)
        own, start, following, x1, x2, x3 = _begin(x, starts, first, x_stride, columns, inside, sequences, halvings)
        p0 = tl.zeros([CHANNELS], tl.float32)
        p1 = tl.zeros([CHANNELS], tl.float32)
        p2 = tl.zeros([CHANNELS], tl.float32)
        # Two tokens at a time, loads first. The three tokens after the run add to the gradients of its last ones.
        for token in range(first, end + 3, 2):
            x0 = _at(x, token, x_stride, columns, inside, token < tokens)
            xa = _at(x, token + 1, x_stride, columns, inside, token + 1 < tokens)
            grad = _at(grad_y, token, grad_y_stride, columns, inside, token < tokens)
            grad_a = _at(grad_y, token + 1, grad_y_stride, columns, inside, token + 1 < tokens)
            own, start, following, place = _place(starts, token, own, start, following, sequences)
            stored = (token - 3 >= first) & (token - 3 < end)
            q0, q1, q2, bias_sum, s0, s1, s2, s3 = _one_back(
                token, place, token < end, stored, x0, x1, x2, x3, grad, p0, p1, p2, f0, f1, f2, f3, offset,
                bias_sum, s0, s1, s2, s3, grad_x, grad_x_stride, columns, inside, SILU,
            )  # fmt: skip
            own, start, following, place = _place(starts, token + 1, own, start, following, sequences)
            stored = (token - 2 >= first) & (token - 2 < end)
            p0, p1, p2, bias_sum, s0, s1, s2, s3 = _one_back(
                token + 1, place, token + 1 < end, stored, xa, x0, x1, x2, grad_a, q0, q1, q2, f0, f1, f2, f3, offset,
                bias_sum, s0, s1, s2, s3, grad_x, grad_x_stride, columns, inside, SILU,
            )  # fmt: skip
            x1, x2, x3 = xa, x0, x1
    sums += tl.program_id(0).to(tl.int64) * channels * (W + 1)
    own = sums + columns * W
    tl.store(own + W - 1, s0, mask=inside)
    tl.store(own + W - 2, s1, mask=inside)
    if W == 4:
        tl.store(own + 1, s2, mask=inside)
        tl.store(own, s3, mask=inside)
    tl.store(sums + channels * W + columns, bias_sum, mask=inside)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor, silu: bool) -> Tensor:
    """See `packed_causal_conv1d`; any dtype but float64, filters of width 2 or 4."""
    x = dense(x)
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    starts = cu_seqlens.to(x.device, torch.int64).contiguous()
    y: Tensor = _CausalConv.apply(x, weight, bias, starts, silu)
    return y


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, starts: Tensor, silu: bool) -> Tensor:
    """The output, `[T, C]`. x's rows may be strided; all other tensors are contiguous."""
    (tokens, channels), sequences = x.shape, len(starts) - 1
    y = x.new_empty(tokens, channels)
    if tokens:
        _conv_forward[triton.cdiv(tokens, FORWARD["RUN"]), triton.cdiv(channels, FORWARD["CHANNELS"])](
            x, weight, bias, starts, y, x.stride(0), tokens, channels, sequences, sequences.bit_length(),
            W=weight.shape[1], HAS_BIAS=bias is not None, SILU=silu, PTX=may_use_ptx(x), **FORWARD,
        )  # fmt: skip
    return y


def backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, starts: Tensor, silu: bool, grad_y: Tensor, grad_x: Tensor
) -> Tensor:
    """Writes x's gradient to `grad_x`; the rows of x, grad_y and grad_x may be strided.

    Returns parts of the other gradients to be summed, float32 `[parts, C W + C]`: the weight's, then the bias's.
    """
    (tokens, channels), sequences, width = x.shape, len(starts) - 1, weight.shape[1]
    blocks = triton.cdiv(channels, LANES)
    programs = min(triton.cdiv(tokens, RUN), max(1, PROGRAMS // blocks))
    sums = x.new_empty(programs, channels * (width + 1), dtype=torch.float32)
    if tokens:
        _conv_backward[programs, blocks](
            x, weight, bias, starts, grad_y, grad_x, sums,
            x.stride(0), grad_y.stride(0), grad_x.stride(0), tokens, channels, sequences, sequences.bit_length(),
            W=width, RUN=RUN, CHANNELS=LANES, HAS_BIAS=bias is not None, SILU=silu, num_warps=1,
        )  # fmt: skip
    return sums


def parameter_gradients(sums: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Sums what `backward` returned to the gradients of weight and bias, each in its dtype."""
    own, rest = sums.split([weight.numel(), len(weight)])
    return own.view(weight.shape).to(weight.dtype), None if bias is None else rest.to(bias.dtype)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, starts: Tensor, silu: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias, starts)
        ctx.silu = silu
        return forward(x, weight, bias, starts, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, starts = ctx.saved_tensors
        grad_y = dense(grad_y)
        grad_x = x.new_empty(x.shape)
        sums = backward(x, weight, bias, starts, ctx.silu, grad_y, grad_x)
        return grad_x, *parameter_gradients(add_columns(sums)[0], weight, bias), None, None
