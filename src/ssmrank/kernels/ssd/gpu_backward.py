"""The backward pass of Mamba-2's mixer over packed sequences on a GPU, in Triton; see `gpu`.

One kernel runs the states forward again and their gradients backward, in parallel, and stores both at the boundaries
of chunks, in the inputs' dtype. The chunks are then independent. For the gradients of x, dt, B and C, programs process
some heads of one group in a chunk, one after the other. They sum the gradients of B and C over these heads in
registers, without atomics, so that the result is the same in every run.

A token's output takes values that earlier tokens give. The matrices within a chunk are stored transposed (Mᵀ): rows are
tokens that give, columns are tokens that take, so that Mᵀ goes from registers into the next product. The gradient of
the decays: with E = M ∘ dM, the gradient of token t's log decay is the sum of E over takers from t on and givers before
t. That is a running sum of what each token takes less what it gives.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmrank.kernels.gpu.sums import add_parts
from ssmrank.kernels.ssd.gpu_tiles import (
    BLOCK,
    LOG2_E,
    chunk_decays,
    chunk_of,
    launch,
    load_tile,
    precision_of,
    slots_of,
    softplus,
)
from ssmrank.kernels.ssd.inputs import SSDInputs

CHUNK = 64
"""Tokens of a chunk."""

HEADS = 32
"""The most heads over which a program sums the gradients of B and C, where chunks are enough to fill the GPU."""

INPUT_HEADS = 16
"""The most heads for which a program computes the gradients of the inputs."""

PROGRAMS = 128
"""Programs that fill a GPU."""

PLANES: tl.constexpr = tl.constexpr(5)
"""Rows of `flows`. Each has a number for each token: what it takes from the state before the chunk, what it gives to
the state after the chunk, what it takes within the chunk, what it gives within the chunk, and x · dy."""

STATES: dict[str, int] = {"num_warps": 4, "num_stages": 2}
PROJECTIONS: dict[str, int] = {"num_warps": 8, "num_stages": 3}
INPUTS: dict[str, int] = {"num_warps": 4, "num_stages": 1}


@triton.jit
def _pass_on(  # type: ignore[no-untyped-def]
    vectors, tiles, decays, kept, state, vector_stride, tile_stride, heads, chunks, length,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, BACK: tl.constexpr, TO_THE_START: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Passes a state from the first chunk to the last, or its gradient back, and stores what each chunk receives.

    All base pointers are at the first chunk. What the chunk at the beginning of the pass receives is stored already.
    """
    dtype: tl.constexpr = kept.dtype.element_ty
    inside, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    place = n[:, None] * P + p[None, :]
    ahead: tl.constexpr = -1 if BACK else 1
    first = tl.maximum(chunks - 1, 0) if BACK else chunks * 0
    vectors += first.to(tl.int64) * Q * vector_stride
    tiles += first.to(tl.int64) * Q * tile_stride
    decays += first.to(tl.int64) * heads * (2 * Q)
    kept += (first + ahead).to(tl.int64) * heads * (N * P)
    for number in range(0, chunks if TO_THE_START else chunks - 1):
        left = length - (first + ahead * number) * Q
        values = load_tile(vectors, inside, vector_stride, p, left)
        tile = load_tile(tiles, inside, tile_stride, n, left)
        last = tl.load(decays + Q - 1)
        weights = tl.exp2(tl.load(decays + inside)) if BACK else tl.exp2(last - tl.load(decays + Q + inside))
        weighed = (values.to(tl.float32) * weights[:, None]).to(dtype)
        state = tl.dot(tl.trans(tile), weighed, state * tl.exp2(last), input_precision=PRECISION)
        if TO_THE_START:
            if number + 1 < chunks:
                tl.store(kept + place, state.to(dtype))
        else:
            tl.store(kept + place, state.to(dtype))
        vectors += ahead * Q * vector_stride
        tiles += ahead * Q * tile_stride
        decays += ahead * heads * (2 * Q)
        kept += ahead * heads * (N * P)
    return state


@triton.jit
def _states_kernel(  # type: ignore[no-untyped-def]
    x, decays, B, C, starts, initial, grad_y, grad_final, grad_initial, kept, grad_kept,
    x_stride, B_stride, C_stride, grad_stride, heads, per_group,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_FINAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The state at each chunk's start, and the gradient of the state at its end; zeros are not stored."""
    head, sequence = tl.program_id(0), tl.program_id(1)
    dtype: tl.constexpr = kept.dtype.element_ty
    p, n = tl.arange(0, P), tl.arange(0, N)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    length = (end - start).to(tl.int32)
    chunks = tl.cdiv(length, Q)
    slot = (start // Q + sequence) * heads + head
    place = n[:, None] * P + p[None, :]
    outside = (sequence * heads + head).to(tl.int64) * (N * P) + p[None, :] * N + n[:, None]
    decays += slot * (2 * Q)
    state = tl.zeros([N, P], tl.float32)
    if tl.program_id(2) == 0:
        kept += slot * (N * P)
        if HAS_INITIAL:
            state = tl.load(initial + outside)
            if length > 0:
                tl.store(kept + place, state.to(dtype))
        _pass_on(
            x + start * x_stride + head * P, B + start * B_stride + head // per_group * N, decays, kept, state,
            x_stride, B_stride, heads, chunks, length, P, N, Q, False, False, PRECISION,
        )  # fmt: skip
    else:
        grad_kept += slot * (N * P)
        if HAS_FINAL:
            state = tl.load(grad_final + outside)
            if length > 0:
                target = grad_kept + (chunks - 1).to(tl.int64) * heads * (N * P)
                tl.store(target + place, state.to(dtype))
        state = _pass_on(
            grad_y + start * grad_stride + head * P, C + start * C_stride + head // per_group * N, decays, grad_kept,
            state, grad_stride, C_stride, heads, chunks, length, P, N, Q, True, HAS_INITIAL, PRECISION,
        )  # fmt: skip
        if HAS_INITIAL:
            tl.store(grad_initial + outside, state)


@triton.jit
def _inputs_kernel(  # type: ignore[no-untyped-def]
    x, decays, B, C, D, starts, owners, kept, grad_kept, grad_y, grad_x, flows,
    x_stride, B_stride, C_stride, grad_stride, grad_x_stride, heads, per_group, count,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, HAS_D: tl.constexpr, HAS_INITIAL: tl.constexpr,
    HAS_FINAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of x for some heads of a group in one chunk, and what each token gives and takes there (`flows`)."""
    slot, head = tl.program_id(0).to(tl.int64), tl.program_id(1) * count
    dtype: tl.constexpr = x.dtype.element_ty
    # In float32 both states of 128 by 128 would not fit into shared memory.
    together: tl.constexpr = dtype != tl.float32
    inside, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    sequence = tl.load(owners + slot)
    if sequence < 0:
        return
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    first = start + (slot - start // Q - sequence) * Q
    left = (end - first).to(tl.int32)
    past = N if HAS_INITIAL else tl.where(first > start, N, 0)
    future = N if HAS_FINAL else tl.where(left > Q, N, 0)
    x += first * x_stride + head * P
    grad_y += first * grad_stride + head * P
    grad_x += first * grad_x_stride + head * P
    decays += (slot * heads + head) * (2 * Q)
    flows += (slot * heads + head) * (PLANES * Q)
    kept += (slot * heads + head) * (N * P)
    grad_kept += (slot * heads + head) * (N * P)
    b = load_tile(B + first * B_stride + head // per_group * N, inside, B_stride, n, left)
    c = load_tile(C + first * C_stride + head // per_group * N, inside, C_stride, n, left)
    for number in range(0, count):
        values = load_tile(x, inside, x_stride, p, left)
        grad = load_tile(grad_y, inside, grad_stride, p, left)
        state = load_tile(kept, n, P, p, past)
        if together:
            carry = load_tile(grad_kept, n, P, p, future)
        total, source, last = tl.load(decays + inside), tl.load(decays + Q + inside), tl.load(decays + Q - 1)
        # The part of the state before the chunk: y += 2^total C · state before.
        out = tl.dot(c, state, input_precision=PRECISION)
        tl.store(flows + inside, tl.sum(out * grad.to(tl.float32), axis=1) * tl.exp2(total))
        # The state after the chunk: kept · state before + Bᵀ (weighed x).
        if not together:
            carry = load_tile(grad_kept, n, P, p, future)
        x_grad = tl.dot(b, carry, input_precision=PRECISION) * tl.exp2(last - source)[:, None]
        tl.store(flows + Q + inside, tl.sum(x_grad * values.to(tl.float32), axis=1))
        weights = tl.exp2(total[None, :] - source[:, None])
        mixing = tl.dot(b, tl.trans(c), input_precision=PRECISION) * weights
        mixing = tl.where(inside[None, :] >= inside[:, None], mixing, 0.0)
        within = tl.dot(values, tl.trans(grad), input_precision=PRECISION) * mixing
        tl.store(flows + 2 * Q + inside, tl.sum(within, axis=0))
        tl.store(flows + 3 * Q + inside, tl.sum(within, axis=1))
        x_grad = tl.dot(mixing.to(dtype), grad, x_grad, input_precision=PRECISION)
        if HAS_D:
            x_grad += tl.load(D + head + number) * grad.to(tl.float32)
            tl.store(flows + 4 * Q + inside, tl.sum(values.to(tl.float32) * grad.to(tl.float32), axis=1))
        target = grad_x + inside[:, None] * grad_x_stride + p[None, :]
        tl.store(target, x_grad.to(grad_x.dtype.element_ty), mask=(inside < left)[:, None])
        x += P
        grad_y += P
        grad_x += P
        decays += 2 * Q
        flows += PLANES * Q
        kept += N * P
        grad_kept += N * P


@triton.jit
def _projections_kernel(  # type: ignore[no-untyped-def]
    x, decays, B, C, starts, owners, kept, grad_kept, grad_y, grad_B, grad_C, inner,
    x_stride, B_stride, C_stride, grad_stride, grad_B_stride, grad_C_stride, part_size, heads, per_group, count,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_FINAL: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of B and C of one chunk, summed over some heads of one group; products of a state and its gradient."""
    slot, group, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    dtype: tl.constexpr = x.dtype.element_ty
    inside, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    sequence = tl.load(owners + slot)
    if sequence < 0:
        return
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    first = start + (slot - start // Q - sequence) * Q
    left = (end - first).to(tl.int32)
    past = N if HAS_INITIAL else tl.where(first > start, N, 0)
    future = N if HAS_FINAL else tl.where(left > Q, N, 0)
    head = group * per_group + part * count
    x += first * x_stride + head * P
    grad_y += first * grad_stride + head * P
    decays += (slot * heads + head) * (2 * Q)
    kept += (slot * heads + head) * (N * P)
    grad_kept += (slot * heads + head) * (N * P)
    inner += slot * heads + head
    score_grads = tl.zeros([Q, Q], tl.float32)
    b_grads = tl.zeros([Q, N], tl.float32)
    c_grads = tl.zeros([Q, N], tl.float32)
    for number in range(0, count):
        values = load_tile(x, inside, x_stride, p, left)
        grad = load_tile(grad_y, inside, grad_stride, p, left)
        state = load_tile(kept, n, P, p, past)
        carry = load_tile(grad_kept, n, P, p, future)
        total, source, last = tl.load(decays + inside), tl.load(decays + Q + inside), tl.load(decays + Q - 1)
        weights = tl.exp2(total[None, :] - source[:, None])
        products = tl.dot(values, tl.trans(grad), input_precision=PRECISION) * weights
        score_grads += tl.where(inside[None, :] >= inside[:, None], products, 0.0)
        scaled = (grad.to(tl.float32) * tl.exp2(total)[:, None]).to(dtype)
        c_grads = tl.dot(scaled, tl.trans(state), c_grads, input_precision=PRECISION)
        weighed = (values.to(tl.float32) * tl.exp2(last - source)[:, None]).to(dtype)
        b_grads = tl.dot(weighed, tl.trans(carry), b_grads, input_precision=PRECISION)
        tl.store(inner + number, tl.sum(state.to(tl.float32) * carry.to(tl.float32)))
        x += P
        grad_y += P
        decays += 2 * Q
        kept += N * P
        grad_kept += N * P
    b = load_tile(B + first * B_stride + group * N, inside, B_stride, n, left)
    c = load_tile(C + first * C_stride + group * N, inside, C_stride, n, left)
    rounded = score_grads.to(dtype)
    b_grads = tl.dot(rounded, c, b_grads, input_precision=PRECISION)
    c_grads = tl.dot(tl.trans(rounded), b, c_grads, input_precision=PRECISION)
    base = part.to(tl.int64) * part_size + group * N
    target = grad_B + base + first * grad_B_stride + inside[:, None] * grad_B_stride + n[None, :]
    tl.store(target, b_grads.to(grad_B.dtype.element_ty), mask=(inside < left)[:, None])
    target = grad_C + base + first * grad_C_stride + inside[:, None] * grad_C_stride + n[None, :]
    tl.store(target, c_grads.to(grad_C.dtype.element_ty), mask=(inside < left)[:, None])


@triton.jit
def _steps_kernel(  # type: ignore[no-untyped-def]
    dt, A, bias, starts, owners, decays, flows, inner, grad_dt, sums, dt_stride, grad_dt_stride, heads,
    Q: tl.constexpr, BLOCK: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """The gradient of dt for some heads in one chunk, and the chunk's part of those of A, D and the bias (`sums`)."""
    slot = tl.program_id(0).to(tl.int64)
    inside, head = tl.arange(0, Q), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = head < heads
    rate_grad = tl.zeros([BLOCK], tl.float32)
    skip_grad = tl.zeros([BLOCK], tl.float32)
    shift_grad = tl.zeros([BLOCK], tl.float32)
    sequence = tl.load(owners + slot)
    if sequence >= 0:
        start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
        first = start + (slot - start // Q - sequence) * Q
        real = (inside < end - first)[:, None] & known[None, :]
        plane = flows + (slot * heads + head[None, :]) * (PLANES * Q) + inside[:, None]
        handed = tl.load(plane + Q, mask=known[None, :], other=0.0)
        given = tl.load(plane + 3 * Q, mask=known[None, :], other=0.0) + handed
        taken = tl.load(plane, mask=known[None, :], other=0.0) + tl.load(plane + 2 * Q, mask=known[None, :], other=0.0)
        last = tl.load(decays + (slot * heads + head) * (2 * Q) + Q - 1, mask=known, other=0.0)
        after = tl.exp2(last) * tl.load(inner + slot * heads + head, mask=known, other=0.0) + tl.sum(handed, axis=0)
        decay_grad = tl.cumsum(taken - given, axis=0, reverse=True) + after[None, :]
        value = tl.load(dt + first * dt_stride + inside[:, None] * dt_stride + head[None, :], mask=real, other=0.0)
        value = value.to(tl.float32)
        if HAS_BIAS:
            value += tl.load(bias + head, mask=known, other=0.0)[None, :]
        rate = tl.load(A + head, mask=known, other=0.0)
        if LOG:
            rate = -tl.exp2(rate * LOG2_E)
        step = tl.where(real, softplus(value), 0.0)
        rate_grad = tl.sum(decay_grad * step, axis=0)
        if LOG:
            rate_grad *= rate
        # What a token gives is proportional to its step. Where softplus gives a step of 0, its slope is 0 too.
        grad = decay_grad * rate[None, :] + given / tl.where(step > 0.0, step, 1.0)
        grad = tl.where(real, grad / (1.0 + tl.exp2(-value * LOG2_E)), 0.0)
        shift_grad = tl.sum(grad, axis=0)
        target = grad_dt + first * grad_dt_stride + inside[:, None] * grad_dt_stride + head[None, :]
        tl.store(target, grad.to(grad_dt.dtype.element_ty), mask=real)
        if HAS_D:
            skip_grad = tl.sum(tl.load(plane + 4 * Q, mask=known[None, :], other=0.0), axis=0)
    own = sums + slot * 3 * heads + head
    tl.store(own, rate_grad, mask=known)
    tl.store(own + heads, skip_grad, mask=known)
    tl.store(own + 2 * heads, shift_grad, mask=known)


def run(
    inputs: SSDInputs,
    starts: Tensor,
    initial: Tensor | None,
    grad_y: Tensor,
    grad_final: Tensor | None,
    out: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    log: bool,
) -> tuple[Tensor, Tensor | None]:
    """Writes the gradients of x, dt, B and C to `out`, whose rows may be strided.

    Inputs are as `gpu.ssd` prepares them, and so is grad_y, `[T, H, P]` in x's dtype. There is at least one sequence.

    Returns:
        Parts of the gradients of A (or its logarithm), D and the bias, float32 `[parts, 3 H]`, to be summed, and the
        gradient of the initial states.
    """
    x, dt, A, B, C, D, bias = inputs
    (tokens, heads, width), (_, groups, states), sequences = x.shape, B.shape, len(starts) - 1
    grad_x, grad_dt, grad_B, grad_C = out
    chunk = chunk_of(x, CHUNK)
    per_group, slots = heads // groups, slots_of(tokens, sequences, chunk)
    decays, owners = chunk_decays(dt, A, bias, starts, chunk, log=log)
    kept, grad_kept = (x.new_empty(slots, heads, states, width) for _ in range(2))
    grad_initial = None if initial is None else torch.empty_like(initial)
    sizes = {"P": width, "N": states, "Q": chunk, "PRECISION": precision_of(x)}
    flags = sizes | {"HAS_INITIAL": initial is not None, "HAS_FINAL": grad_final is not None}
    strides = x.stride(0), B.stride(0), C.stride(0), grad_y.stride(0)
    _states_kernel[heads, sequences, 2](
        x, decays, B, C, starts, initial, grad_y, grad_final, grad_initial, kept, grad_kept,
        *strides, heads, per_group, **flags, **launch(x, STATES),
    )  # fmt: skip
    count = _heads_at_once(slots * groups, per_group, HEADS)
    parts = per_group // count
    inner = decays.new_empty(slots, heads)
    whole = parts == 1
    B_parts, C_parts = (
        grad[None] if whole else decays.new_empty(parts, tokens, groups, states) for grad in (grad_B, grad_C)
    )
    _projections_kernel[slots, groups, parts](
        x, decays, B, C, starts, owners, kept, grad_kept, grad_y, B_parts, C_parts, inner,
        *strides, B_parts.stride(1), C_parts.stride(1), B_parts.stride(0), heads, per_group, count,
        **flags, **launch(x, PROJECTIONS),
    )  # fmt: skip
    flows = decays.new_empty(slots, heads, PLANES.value, chunk)
    count = _heads_at_once(slots * groups, per_group, INPUT_HEADS)
    _inputs_kernel[slots, heads // count](
        x, decays, B, C, D, starts, owners, kept, grad_kept, grad_y, grad_x, flows,
        *strides, grad_x.stride(0), heads, per_group, count, HAS_D=D is not None, **flags, **launch(x, INPUTS),
    )  # fmt: skip
    sums = decays.new_empty(slots, 3 * heads)
    _steps_kernel[slots, triton.cdiv(heads, BLOCK)](
        dt, A, bias, starts, owners, decays, flows, inner, grad_dt, sums, dt.stride(0), grad_dt.stride(0), heads,
        Q=chunk, BLOCK=BLOCK, HAS_D=D is not None, HAS_BIAS=bias is not None, LOG=log, num_warps=4,
    )  # fmt: skip
    if not whole:
        add_parts(B_parts, C_parts, grad_B, grad_C)
    return sums, grad_initial


def _heads_at_once(chunks: int, heads: int, most: int) -> int:
    """How many of a group's heads a program processes: few, unless chunks are enough to fill the GPU."""
    count = heads
    while count % 2 == 0 and (count > most or chunks * (heads // count) < PROGRAMS):
        count //= 2
    return count
