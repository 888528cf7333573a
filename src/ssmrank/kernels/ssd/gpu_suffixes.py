"""Mamba-2's mixer over short sequences that begin with a few given states, on a GPU, in Triton; forward only.

The queries of a shared document are such sequences. A program loads a head's state once and processes all sequences
that begin with it. A tile has several whole sequences, so that the product of C and the state has many rows. No state
is written. Within a tile y = M x + decays · C S with M = (C Bᵀ ∘ decays) · Δ, and M is zero between sequences.

Products as in `gpu_forward`. Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmrank.kernels.packing import sequence_index
from ssmrank.kernels.ssd.gpu_tiles import LOG2_E, described, load_rows, load_steps, may_be_copied, precision_of
from ssmrank.kernels.ssd.inputs import SSDInputs

TILE = 64
"""Tokens of a tile; the longest sequence must fit into it."""

REGISTERS = 168
"""Registers of a thread where the GPU itself copies the tiles. Three programs then share a multiprocessor instead of
two, which gains more than spilled registers cost."""


@triton.jit
def _suffix_kernel(  # type: ignore[no-untyped-def]
    x, dt, A, B, C, D, bias, starts, sequences, bounds, initial, y, x_stride, dt_stride, B_stride, C_stride,
    heads, per_group, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, HAS_D: tl.constexpr,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, COPIED: tl.constexpr,
):  # fmt: skip
    """COPIED: x, B and C are tensor descriptors, as in `gpu_forward`; rows after a tile's end are multiplied by 0."""
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    dtype: tl.constexpr = y.dtype.element_ty
    inside, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    first = tl.load(starts + tl.load(bounds + row))
    end = tl.load(starts + tl.load(bounds + row + 1))
    rate = tl.load(A + head) * LOG2_E
    shift = 0.0
    if HAS_BIAS:
        shift = tl.load(bias + head)
    skip = 0.0
    if HAS_D:
        skip = tl.load(D + head)
    group = head // per_group
    if not COPIED:
        x += head * P
        B += group * N
        C += group * N
    if first < end:
        state = tl.load(initial + (row * heads + head) * (N * P) + p[None, :] * N + n[:, None]).to(dtype)
        while first < end:
            # The tile ends before the first sequence that does not fit into it.
            last = tl.minimum(first + Q, end)
            if last < end:
                last = tl.load(starts + tl.load(sequences + last))
            rows = first + inside
            real = rows < last
            _, step = load_steps(dt, rows, dt_stride, head, shift, real)
            own = tl.load(sequences + rows, mask=real, other=-1)
            past = (own[:, None] == own[None, :]) & (inside[:, None] >= inside[None, :])
            total = tl.sum(tl.where(past, (step * rate)[None, :], 0.0), axis=1)
            if COPIED:
                values = x.load([first.to(tl.int32), head * P])
                b, c = B.load([first.to(tl.int32), group * N]), C.load([first.to(tl.int32), group * N])
            else:
                values = load_rows(x, rows, x_stride, p, real)
                b, c = load_rows(B, rows, B_stride, n, real), load_rows(C, rows, C_stride, n, real)
            scores = tl.dot(c, tl.trans(b), input_precision=PRECISION)
            weights = tl.exp2(tl.minimum(total[:, None] - total[None, :], 0.0)) * step[None, :]
            mixing = tl.where(past, scores * weights, 0.0).to(dtype)
            out = tl.dot(c, state, input_precision=PRECISION) * tl.exp2(total)[:, None]
            out += tl.dot(mixing, values, input_precision=PRECISION)
            if HAS_D:
                out += skip * values.to(tl.float32)
            target = y + rows[:, None] * (heads * P) + head * P + p[None, :]
            tl.store(target, out.to(y.dtype.element_ty), mask=real[:, None])
            first = last


def run(
    inputs: SSDInputs,
    initial: Tensor,
    starts: Tensor,
    index: Tensor,
    y: Tensor,
) -> None:
    """Writes y `[T, H, P]`. `initial`: `[R, H, P, N]`, contiguous; `index`: ascending, a row for every sequence.

    Inputs are as `gpu.ssd` prepares them.
    """
    x, dt, A, B, C, D, bias = inputs
    (tokens, heads, width), (_, groups, states) = x.shape, B.shape
    rows = torch.arange(len(initial) + 1, device=x.device, dtype=index.dtype)
    bounds = torch.searchsorted(index, rows)
    copied = may_be_copied(x, B, C)
    tiled = [described(tensor, TILE) for tensor in (x, B, C)] if copied else [x, B, C]
    _suffix_kernel[heads, len(initial)](
        tiled[0], dt, A, *tiled[1:], D, bias, starts, sequence_index(starts, tokens), bounds, initial, y,
        x.stride(0), dt.stride(0), B.stride(0), C.stride(0), heads, heads // groups,
        P=width, N=states, Q=TILE, HAS_D=D is not None, HAS_BIAS=bias is not None, PRECISION=precision_of(x),
        COPIED=copied, num_warps=4, num_stages=1, **({"maxnreg": REGISTERS} if copied else {}),
    )  # fmt: skip
