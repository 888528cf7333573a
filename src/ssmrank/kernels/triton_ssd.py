"""Mamba-2's mixer over packed sequences on a GPU, in Triton, forward and backward.

A sequence is cut into chunks of Q tokens. Within a chunk the mixer is masked attention without softmax, y = (C Bᵀ ∘
decays) Δx; between chunks a head hands on its state `[N, P]` (Dao & Gu 2024, section 6). Here a program takes one
head through one sequence, chunk after chunk, with the state in registers: the forward pass writes
nothing but y, and a sequence of one chunk, as most passages are, touches no state at all.

The backward pass runs the states forward once more and their gradients backward, and stores both where chunks meet (of
one layer at a time, in the inputs' dtype). Then each head of each chunk is by itself, for the gradients of x and dt;
and a program for each chunk sums over heads what the projections B and C get, so that nothing is added atomically and
the result is the same in every run.

The gradient of the decays: with M the masked matrix, E = M ∘ dM, token t's log decay gets the sum of E over rows from t
on and columns before t, which is a running sum of row sums less column sums of the same E.

Matrix products take operands in the inputs' dtype (float32: without TF32) and sum in float32. Nothing waits for the
device, launches depend on shapes alone, and nothing is tuned at run time: a CUDA graph can hold it all, and the first
step is as fast as the next. Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 64
"""Tokens of a chunk."""

HEADS = 8
"""Heads over which one program sums the gradients of B and C, where there are chunks enough to fill the GPU."""

FORWARD: dict[str, int] = {"num_warps": 4, "num_stages": 1}
STATES: dict[str, int] = {"num_warps": 8, "num_stages": 1}
INPUTS: dict[str, int] = {"num_warps": 4, "num_stages": 1}
PROJECTIONS: dict[str, int] = {"num_warps": 8, "num_stages": 1}

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


def supports(width: int, states: int) -> bool:
    """Whether heads of this width P and number of states N are among those checked on a GPU.

    Others compile too, but triton 3.6 was seen to place operands of 32 columns outside of shared memory.
    """
    return width in (64, 128) and states in (64, 128)


@triton.jit
def _softplus(x):  # type: ignore[no-untyped-def]
    """log(1 + e^x) with a small relative error at both ends (Kahan's log1p)."""
    small = tl.exp2(-tl.abs(x) * LOG2_E)
    one = 1.0 + small
    rest = tl.where(one == 1.0, small, tl.log(one) * (small / tl.where(one == 1.0, 1.0, one - 1.0)))
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + rest


@triton.jit
def _rows(base, rows, stride, columns, real):  # type: ignore[no-untyped-def]
    """`[rows, columns]` of a tensor, zero where a row is not real."""
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=real[:, None], other=0.0)


@triton.jit
def _steps(dt, rows, stride, head, shift, real):  # type: ignore[no-untyped-def]
    """Step sizes before and after softplus, float32 `[Q]`; zero behind the end, where they neither decay nor add."""
    before = tl.load(dt + rows * stride + head, mask=real, other=0.0).to(tl.float32) + shift
    return before, tl.where(real, _softplus(before), 0.0)


@triton.jit
def _decays(total, rows, columns):  # type: ignore[no-untyped-def]
    """Lower triangle of 2^(total_i - total_j), `[Q, Q]`."""
    difference = tl.minimum(total[:, None] - total[None, :], 0.0)
    return tl.where(rows[:, None] >= columns[None, :], tl.exp2(difference), 0.0)


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x, dt, A, B, C, D, bias, starts, initial, index, y, final, kept, owners,
    x_stride, dt_stride, B_stride, C_stride, heads, per_group,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_INITIAL: tl.constexpr, HAS_INDEX: tl.constexpr, NEED_Y: tl.constexpr, NEED_FINAL: tl.constexpr,
    KEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y and the last state; or, without y, the state that each chunk starts from, and whose chunk it is."""
    head, sequence = tl.program_id(0), tl.program_id(1)
    dtype: tl.constexpr = x.dtype.element_ty
    inside, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    chunks = tl.cdiv(end - start, Q)
    rate = tl.load(A + head) * LOG2_E
    shift = 0.0
    if HAS_BIAS:
        shift = tl.load(bias + head)
    skip = 0.0
    if HAS_D:
        skip = tl.load(D + head)
    place = n[:, None] * P + p[None, :]
    outside = (sequence * heads + head).to(tl.int64) * (N * P) + p[None, :] * N + n[:, None]
    state = tl.zeros([N, P], tl.float32)
    if HAS_INDEX:
        row = tl.load(index + sequence)
        origin = (row * heads + head).to(tl.int64) * (N * P) + p[None, :] * N + n[:, None]
        state = tl.load(initial + origin, mask=(row >= 0) & (origin == origin), other=0.0)
    elif HAS_INITIAL:
        state = tl.load(initial + outside)
    x += head * P
    B += head // per_group * N
    C += head // per_group * N
    slot = start // Q + sequence
    for chunk in range(0, chunks):
        rows = start + chunk * Q + inside
        real = rows < end
        _, step = _steps(dt, rows, dt_stride, head, shift, real)
        total = tl.cumsum(step * rate, axis=0)
        values = _rows(x, rows, x_stride, p, real)
        driven = values.to(tl.float32) * step[:, None]
        b = _rows(B, rows, B_stride, n, real)
        has_past = (chunk > 0) | HAS_INITIAL
        if KEEP:
            if tl.program_id(0) == 0:
                tl.store(owners + slot + chunk, sequence)
            if has_past:
                matrix = ((slot + chunk) * heads + head).to(tl.int64) * (N * P)
                tl.store(kept + matrix + place, state.to(kept.dtype.element_ty))
        if NEED_Y:
            c = _rows(C, rows, C_stride, n, real)
            scores = tl.dot(c, tl.trans(b), input_precision=PRECISION)
            mixing = (scores * _decays(total, inside, inside)).to(dtype)
            out = tl.dot(mixing, driven.to(dtype), input_precision=PRECISION)
            if has_past:
                out += tl.dot(c, state.to(dtype), input_precision=PRECISION) * tl.exp2(total)[:, None]
            if HAS_D:
                out += skip * values.to(tl.float32)
            target = y + rows[:, None] * (heads * P) + head * P + p[None, :]
            tl.store(target, out.to(y.dtype.element_ty), mask=real[:, None])
        if (chunk + 1 < chunks) | NEED_FINAL:
            last = tl.sum(step, axis=0) * rate
            weighed = (driven * tl.exp2(last - total)[:, None]).to(dtype)
            state = state * tl.exp2(last) + tl.dot(tl.trans(b), weighed, input_precision=PRECISION)
    if NEED_FINAL:
        tl.store(final + outside, state)


@triton.jit
def _states_backward_kernel(  # type: ignore[no-untyped-def]
    dt, A, C, bias, starts, grad_y, grad_final, grad_initial, grad_kept,
    dt_stride, C_stride, grad_stride, heads, per_group,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_INITIAL: tl.constexpr, HAS_FINAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The state's gradient at the end of each chunk, and at the sequence's start."""
    head, sequence = tl.program_id(0), tl.program_id(1)
    dtype: tl.constexpr = grad_kept.dtype.element_ty
    inside, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    chunks = tl.cdiv(end - start, Q)
    rate = tl.load(A + head) * LOG2_E
    shift = 0.0
    if HAS_BIAS:
        shift = tl.load(bias + head)
    place = n[:, None] * P + p[None, :]
    outside = (sequence * heads + head).to(tl.int64) * (N * P) + p[None, :] * N + n[:, None]
    carry = tl.zeros([N, P], tl.float32)
    if HAS_FINAL:
        carry = tl.load(grad_final + outside)
    C += head // per_group * N
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        if (back > 0) | HAS_FINAL:
            matrix = ((start // Q + sequence + chunk) * heads + head).to(tl.int64) * (N * P)
            tl.store(grad_kept + matrix + place, carry.to(dtype))
        if (chunk > 0) | HAS_INITIAL:
            rows = start + chunk * Q + inside
            real = rows < end
            _, step = _steps(dt, rows, dt_stride, head, shift, real)
            total = tl.cumsum(step * rate, axis=0)
            grad = _rows(grad_y + head * P, rows, grad_stride, p, real).to(tl.float32)
            scaled = (grad * tl.exp2(total)[:, None]).to(dtype)
            c = _rows(C, rows, C_stride, n, real)
            through = tl.exp2(tl.sum(step, axis=0) * rate)
            carry = carry * through + tl.dot(tl.trans(c), scaled, input_precision=PRECISION)
    if HAS_INITIAL:
        tl.store(grad_initial + outside, carry)


@triton.jit
def _inputs_backward_kernel(  # type: ignore[no-untyped-def]
    x, dt, A, B, C, D, bias, starts, owners, kept, grad_kept, grad_y, grad_x, grad_dt, sums,
    x_stride, dt_stride, B_stride, C_stride, grad_stride, grad_x_stride, grad_dt_stride, slots, heads, per_group,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_INITIAL: tl.constexpr, HAS_FINAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of x and dt of one head in one chunk, and the chunk's part of those of A, D and the bias (`sums`)."""
    head, slot = tl.program_id(0), tl.program_id(1)
    dtype: tl.constexpr = x.dtype.element_ty
    sequence = tl.load(owners + slot)
    rate_grad, skip_grad, shift_grad = 0.0, 0.0, 0.0
    if sequence >= 0:
        inside, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
        start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
        first = start + (slot - start // Q - sequence) * Q
        rows = first + inside
        real = rows < end
        has_past = (first > start) | HAS_INITIAL
        has_future = (first + Q < end) | HAS_FINAL
        decay_rate = tl.load(A + head)
        shift = 0.0
        if HAS_BIAS:
            shift = tl.load(bias + head)
        before, step = _steps(dt, rows, dt_stride, head, shift, real)
        total = tl.cumsum(step * (decay_rate * LOG2_E), axis=0)
        last = tl.sum(step, axis=0) * (decay_rate * LOG2_E)
        b = _rows(B + head // per_group * N, rows, B_stride, n, real)
        c = _rows(C + head // per_group * N, rows, C_stride, n, real)
        values = _rows(x + head * P, rows, x_stride, p, real)
        driven = (values.to(tl.float32) * step[:, None]).to(dtype)
        grad = _rows(grad_y + head * P, rows, grad_stride, p, real).to(dtype)
        matrix = (slot * heads + head).to(tl.int64) * (N * P) + n[:, None] * P + p[None, :]
        mixing = tl.dot(c, tl.trans(b), input_precision=PRECISION) * _decays(total, inside, inside)
        driven_grad = tl.dot(tl.trans(mixing.to(dtype)), grad, input_precision=PRECISION)
        slopes = tl.dot(grad, tl.trans(driven), input_precision=PRECISION) * mixing
        decay_grad = tl.sum(slopes, axis=1) - tl.sum(slopes, axis=0)
        after = 0.0
        if has_past:
            # What the chunk took over: y += 2^total C · state before.
            state = tl.load(kept + matrix)
            taken = tl.dot(c, state, input_precision=PRECISION) * tl.exp2(total)[:, None]
            decay_grad += tl.sum(taken * grad.to(tl.float32), axis=1)
            if has_future:
                carry = tl.load(grad_kept + matrix)
                after += tl.exp2(last) * tl.sum(carry.to(tl.float32) * state.to(tl.float32))
        if has_future:
            # What the chunk handed on: state = kept · state before + Bᵀ (weighed Δx).
            added = tl.dot(b, tl.load(grad_kept + matrix), input_precision=PRECISION) * tl.exp2(last - total)[:, None]
            driven_grad += added
            handed = tl.sum(added * driven.to(tl.float32), axis=1)
            decay_grad -= handed
            after += tl.sum(handed, axis=0)
        decay_grad = tl.cumsum(decay_grad, axis=0, reverse=True) + after
        wide = values.to(tl.float32)
        rate_grad += tl.sum(decay_grad * step, axis=0)
        step_grad = decay_grad * decay_rate + tl.sum(driven_grad * wide, axis=1)
        step_grad = tl.where(real, step_grad / (1.0 + tl.exp2(-before * LOG2_E)), 0.0)
        shift_grad += tl.sum(step_grad, axis=0)
        tl.store(grad_dt + rows * grad_dt_stride + head, step_grad.to(grad_dt.dtype.element_ty), mask=real)
        x_grad = driven_grad * step[:, None]
        if HAS_D:
            x_grad += tl.load(D + head) * grad.to(tl.float32)
            skip_grad += tl.sum(wide * grad.to(tl.float32))
        target = grad_x + rows[:, None] * grad_x_stride + head * P + p[None, :]
        tl.store(target, x_grad.to(grad_x.dtype.element_ty), mask=real[:, None])
    own = sums + slot * heads + head
    tl.store(own, rate_grad)
    tl.store(own + slots * heads, skip_grad)
    tl.store(own + 2 * slots * heads, shift_grad)


@triton.jit
def _projections_backward_kernel(  # type: ignore[no-untyped-def]
    x, dt, A, B, C, bias, starts, owners, kept, grad_kept, grad_y, grad_B, grad_C,
    x_stride, dt_stride, B_stride, C_stride, grad_stride, grad_B_stride, grad_C_stride, part_size, heads, per_group,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, HEADS: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_INITIAL: tl.constexpr, HAS_FINAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of B and C of one chunk, summed over some heads of one group."""
    slot, group, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    dtype: tl.constexpr = x.dtype.element_ty
    sequence = tl.load(owners + slot)
    if sequence >= 0:
        inside, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
        start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
        first = start + (slot - start // Q - sequence) * Q
        rows = first + inside
        real = rows < end
        has_past = (first > start) | HAS_INITIAL
        has_future = (first + Q < end) | HAS_FINAL
        score_grads = tl.zeros([Q, Q], tl.float32)
        b_grads = tl.zeros([Q, N], tl.float32)
        c_grads = tl.zeros([Q, N], tl.float32)
        for number in range(0, HEADS):
            head = group * per_group + part * HEADS + number
            shift = 0.0
            if HAS_BIAS:
                shift = tl.load(bias + head)
            rate = tl.load(A + head) * LOG2_E
            _, step = _steps(dt, rows, dt_stride, head, shift, real)
            total = tl.cumsum(step * rate, axis=0)
            driven = _rows(x + head * P, rows, x_stride, p, real).to(tl.float32) * step[:, None]
            grad = _rows(grad_y + head * P, rows, grad_stride, p, real).to(dtype)
            slopes = tl.dot(grad, tl.trans(driven.to(dtype)), input_precision=PRECISION)
            score_grads += slopes * _decays(total, inside, inside)
            matrix = (slot * heads + head).to(tl.int64) * (N * P) + n[:, None] * P + p[None, :]
            if has_past:
                scaled = (grad.to(tl.float32) * tl.exp2(total)[:, None]).to(dtype)
                c_grads += tl.dot(scaled, tl.trans(tl.load(kept + matrix)), input_precision=PRECISION)
            if has_future:
                weights = tl.exp2(tl.sum(step, axis=0) * rate - total)
                weighed = (driven * weights[:, None]).to(dtype)
                b_grads += tl.dot(weighed, tl.trans(tl.load(grad_kept + matrix)), input_precision=PRECISION)
        b = _rows(B + group * N, rows, B_stride, n, real)
        c = _rows(C + group * N, rows, C_stride, n, real)
        rounded = score_grads.to(dtype)
        b_grads += tl.dot(tl.trans(rounded), c, input_precision=PRECISION)
        c_grads += tl.dot(rounded, b, input_precision=PRECISION)
        part_start = part.to(tl.int64) * part_size
        columns = group * N + n[None, :]
        target = grad_B + part_start + rows[:, None] * grad_B_stride + columns
        tl.store(target, b_grads.to(grad_B.dtype.element_ty), mask=real[:, None])
        target = grad_C + part_start + rows[:, None] * grad_C_stride + columns
        tl.store(target, c_grads.to(grad_C.dtype.element_ty), mask=real[:, None])


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
    """See `packed_ssd`; x, B, C in one of bfloat16, float16 and float32; y in x's dtype, final states in float32.

    Not differentiable with an index or into `out`.
    """
    x, dt, B, C = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (x, dt, B, C))
    x, B, C = (_head_major(tensor) for tensor in (x, B, C))
    A = A.float().contiguous()
    D, dt_bias = (None if tensor is None else tensor.float().contiguous() for tensor in (D, dt_bias))
    initial = None if initial_states is None else initial_states.float().contiguous()
    starts = cu_seqlens.to(x.device, torch.int64).contiguous()
    inputs = (x, dt, A, B.to(x.dtype), C.to(x.dtype), D, dt_bias)
    if initial_index is None and out is None:
        y, final = _Ssd.apply(*inputs, initial, starts, need_final)
        return y, final
    y, final = _outputs(x, B, starts, out, need_final)
    index = None if initial_index is None else initial_index.contiguous()
    if initial is not None and index is not None and not need_final and longest is not None:
        from ssmrank.kernels import triton_ssd_suffixes

        if longest <= triton_ssd_suffixes.TILE:
            triton_ssd_suffixes.run(*inputs, initial, starts, index, y)
            return y, None
    _run_forward(*inputs, initial, starts, index=index, y=y, final=final, kept=None)
    return y, final


def _outputs(
    x: Tensor, B: Tensor, starts: Tensor, out: Tensor | None, need_final: bool
) -> tuple[Tensor, Tensor | None]:
    shape = (len(starts) - 1, *x.shape[1:], B.shape[2])
    final = x.new_empty(shape, dtype=torch.float32) if need_final else None
    return x.new_empty(x.shape) if out is None else out, final


def _head_major(tensor: Tensor) -> Tensor:
    """A tensor `[T, heads, width]` whose heads follow one another within a row."""
    return tensor if tensor.stride(1) == tensor.shape[2] or tensor.shape[1] == 1 else tensor.contiguous()


def _parts(slots: int, groups: int, per_group: int) -> int:
    """Into how many programs the heads of a group are split: few, unless there are few chunks."""
    part = per_group
    while part % 2 == 0 and (part > HEADS or (part > 1 and slots * groups * (per_group // part) < 256)):
        part //= 2
    return per_group // part


class _Ssd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        x, starts, need_final = arguments[0], *arguments[-2:]
        y, final = _outputs(x, arguments[3], starts, None, need_final)
        _run_forward(*arguments[:-1], y=y, final=final, kept=None)
        ctx.save_for_backward(*arguments[:-1])
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, bias, initial, starts = ctx.saved_tensors
        (tokens, heads, width), (_, groups, states), sequences = x.shape, B.shape, len(starts) - 1
        if grad_y is None:
            grad_y = x.new_zeros(tokens, heads, width)
        grad_y = _head_major(grad_y if grad_y.stride(-1) == 1 else grad_y.contiguous())
        grad_final = None if grad_final is None else grad_final.float().contiguous()
        grad_x, grad_dt = x.new_empty(tokens, heads, width), dt.new_empty(tokens, heads)
        grad_initial = None if initial is None else torch.empty_like(initial)
        slots = tokens // CHUNK + sequences
        sums = A.new_empty(3, slots, heads)
        parts = _parts(slots, groups, heads // groups)
        grad_B, grad_C = (
            x.new_empty(parts, tokens, groups, states, dtype=x.dtype if parts == 1 else torch.float32) for _ in range(2)
        )
        if sequences:
            owners = torch.full((slots,), -1, dtype=torch.int32, device=x.device)
            kept, grad_kept = (x.new_empty(slots, heads, states, width) for _ in range(2))
            _run_forward(x, dt, A, B, C, D, bias, initial, starts, y=None, final=None, kept=kept, owners=owners)
            flags = {
                "P": width, "N": states, "Q": CHUNK, "HAS_BIAS": bias is not None, "HAS_INITIAL": initial is not None,
                "HAS_FINAL": grad_final is not None, "PRECISION": _precision(x),
            }  # fmt: skip
            _states_backward_kernel[heads, sequences](
                dt, A, C, bias, starts, grad_y, grad_final, grad_initial, grad_kept,
                dt.stride(0), C.stride(0), grad_y.stride(0), heads, heads // groups,
                **flags, **STATES,
            )  # fmt: skip
            strides = x.stride(0), dt.stride(0), B.stride(0), C.stride(0), grad_y.stride(0)
            _inputs_backward_kernel[heads, slots](
                x, dt, A, B, C, D, bias, starts, owners, kept, grad_kept, grad_y, grad_x, grad_dt, sums,
                *strides, grad_x.stride(0), grad_dt.stride(0), slots, heads, heads // groups,
                HAS_D=D is not None, **flags, **INPUTS,
            )  # fmt: skip
            _projections_backward_kernel[slots, groups, parts](
                x, dt, A, B, C, bias, starts, owners, kept, grad_kept, grad_y, grad_B, grad_C,
                *strides, grad_B.stride(1), grad_C.stride(1), grad_B.stride(0), heads, heads // groups,
                HEADS=heads // groups // parts, **flags, **PROJECTIONS,
            )  # fmt: skip
        grad_A, grad_D, grad_bias = sums.sum(1)
        return (
            grad_x,
            grad_dt,
            grad_A,
            *(grad[0] if parts == 1 else grad.sum(0).to(x.dtype) for grad in (grad_B, grad_C)),
            None if D is None else grad_D,
            None if bias is None else grad_bias,
            grad_initial,
            None,
            None,
        )


def _run_forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    bias: Tensor | None,
    initial: Tensor | None,
    starts: Tensor,
    *,
    index: Tensor | None = None,
    y: Tensor | None,
    final: Tensor | None,
    kept: Tensor | None,
    owners: Tensor | None = None,
) -> None:
    (_, heads, width), (_, groups, states), sequences = x.shape, B.shape, len(starts) - 1
    if sequences == 0:
        return
    _forward_kernel[heads, sequences](
        x, dt, A, B, C, D, bias, starts, initial, index, y, final, kept, owners,
        x.stride(0), dt.stride(0), B.stride(0), C.stride(0), heads, heads // groups,
        P=width, N=states, Q=CHUNK, HAS_D=D is not None, HAS_BIAS=bias is not None,
        HAS_INITIAL=initial is not None, HAS_INDEX=index is not None, NEED_Y=y is not None,
        NEED_FINAL=final is not None, KEEP=kept is not None, PRECISION=_precision(x),
        **(STATES if y is None else FORWARD),
    )  # fmt: skip


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"
