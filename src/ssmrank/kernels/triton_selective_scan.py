"""The selective scan over packed sequences on a GPU, in Triton, forward and backward.

`mamba_ssm`'s scan knows neither where packed sequences start nor an initial state. A program here takes a block of
channels through one sequence after another: channels lie in the lanes of a warp and the N states of a channel in the
registers of its lane, so that the forward pass sums nothing across lanes. Tensors are token-major, as the projections
leave them. Nothing waits for the device, and the launch depends on shapes alone, so a CUDA graph can hold it.

The backward pass goes through a sequence from its end in chunks, whose first states the forward pass stored. It runs
a chunk forward once more, stores the state of every second step in scratch memory (small enough for the L2 cache), and
then takes two steps at a time back with all that they need in registers.

On one H100 in bfloat16, 64 sequences of 512 tokens, 2048 channels and 16 states take 0.9 ms forward and 4.4 ms
backward (255 registers a thread). Slower: states spread over lanes, more warps a program, sums over channels on tensor
cores, fewer registers for more programs at a time (5.0 ms with 208, 6.0 with 168, 8.6 with 128), chunks of 16 or 64.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 32
"""Steps between stored states, a multiple of 2."""

BLOCK = 32
"""Channels of a program: the lanes of a warp."""

FOLD = torch.version.hip is None
"""Whether sums over the lanes of a warp are folded with NVIDIA's exchange between lanes."""

PROGRAMS = 8192
"""About how many programs a launch should have where there are sequences enough."""

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def _softplus(x):  # type: ignore[no-untyped-def]
    """log(1 + e^x) with a small relative error at both ends (Kahan's log1p)."""
    small = tl.exp2(-tl.abs(x) * LOG2_E)
    one = 1.0 + small
    rest = tl.where(one == 1.0, small, tl.log(one) * (small / tl.where(one == 1.0, 1.0, one - 1.0)))
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + rest


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp2(-x * LOG2_E))


@triton.jit
def _row(base, token, stride, columns, mask):  # type: ignore[no-untyped-def]
    return tl.load(base + token * stride + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _fold(values, lane, HALF: tl.constexpr, DISTANCE: tl.constexpr):  # type: ignore[no-untyped-def]
    """`[2 HALF, 32]` to `[HALF, 32]`: lanes DISTANCE apart add their values and keep half of the rows each."""
    low, high = tl.split(tl.permute(tl.reshape(values, [2, HALF, 32]), [1, 2, 0]))
    upper = (lane & DISTANCE)[None, :] != 0
    return tl.where(upper, high, low) + _from_lane(tl.where(upper, low, high), DISTANCE)


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
def _store_sums(base, values, lane, n, N: tl.constexpr, NP: tl.constexpr, real, FOLD: tl.constexpr):  # type: ignore[no-untyped-def]
    """Stores the sums over lanes of `values`, `[NP, 32]`.

    A sum of NP rows over 32 lanes takes 5 NP exchanges between lanes when each row is summed by itself. Here lanes
    halve between them the rows that they sum: NP exchanges, and a lane ends with one row's sum.
    """
    if FOLD and NP == 16:
        folded = _fold(_fold(_fold(_fold(values, lane, 8, 16), lane, 4, 8), lane, 2, 4), lane, 1, 2)
        folded += _from_lane(folded, 1)
        row = lane // 2
        mask = real & (lane % 2 == 0) & (row < N)
        tl.store(base + row[None, :], folded, mask=mask[None, :])
    else:
        tl.store(base + n, tl.sum(values, axis=1), mask=real & (n < N))


@triton.jit
def _lanes(values):  # type: ignore[no-untyped-def]
    """Number of the lane that holds each of the values."""
    return tl.inline_asm_elementwise("mov.u32 $0, %laneid;", "=r,f", [values], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit(do_not_specialize=["channels"])
def _forward_kernel(  # type: ignore[no-untyped-def]
    u, delta, A, B, C, D, z, bias, starts, initial, index, y, final, stored,
    u_stride, delta_stride, B_stride, C_stride, z_stride, sequences, groups, channels,
    N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_INDEX: tl.constexpr,
    NEED_FINAL: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, NP)
    d_mask, n_mask = d < channels, n < N
    mask = n_mask[:, None] & d_mask[None, :]
    place = n[:, None] * channels + d[None, :]
    plane = channels.to(tl.int64) * N
    rates = tl.load(A + place, mask=mask, other=0.0) * LOG2_E
    skip = tl.zeros([BLOCK], tl.float32)
    if HAS_D:
        skip = tl.load(D + d, mask=d_mask, other=0.0)
    shift = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + d, mask=d_mask, other=0.0)
    for sequence in range(tl.program_id(1), sequences, groups):
        start = tl.load(starts + sequence)
        end = tl.load(starts + sequence + 1)
        state = tl.zeros([NP, BLOCK], tl.float32)
        if HAS_INDEX:
            row = tl.load(index + sequence)
            state = tl.load(initial + row * plane + place, mask=mask & (row >= 0), other=0.0)
        elif HAS_INITIAL:
            state = tl.load(initial + sequence * plane + place, mask=mask, other=0.0)
        for chunk in range(0, tl.cdiv(end - start, CHUNK)):
            if STORE:
                tl.store(stored + (start // CHUNK + sequence + chunk) * plane + place, state, mask=mask)
            first = start + chunk * CHUNK
            for token in range(first, tl.minimum(first + CHUNK, end)):
                step = _softplus(_row(delta, token, delta_stride, d, d_mask) + shift)
                value = _row(u, token, u_stride, d, d_mask)
                b = _row(B, token, B_stride, n, n_mask)
                c = _row(C, token, C_stride, n, n_mask)
                state = tl.exp2(step[None, :] * rates) * state + (step * value)[None, :] * b[:, None]
                out = tl.sum(state * c[:, None], axis=0) + skip * value
                if HAS_Z:
                    gate = _row(z, token, z_stride, d, d_mask)
                    out = out * gate * _sigmoid(gate)
                tl.store(y + token * channels + d, out.to(y.dtype.element_ty), mask=d_mask)
        if NEED_FINAL:
            tl.store(final + sequence * plane + place, state, mask=mask)


@triton.jit
def _again(  # type: ignore[no-untyped-def]
    token, end, state, rates, shift, u, delta, B, u_stride, delta_stride, B_stride, channels, d, n,
    N: tl.constexpr,
):  # fmt: skip
    """One step forward again; behind the sequence's end nothing decays and nothing is added."""
    real = token < end
    inside, n_inside = d < tl.where(real, channels, 0), n < tl.where(real, N, 0)
    pre = _row(delta, token, delta_stride, d, inside) + shift
    step = tl.where(real, _softplus(pre), 0.0)
    value = _row(u, token, u_stride, d, inside)
    b = _row(B, token, B_stride, n, n_inside)
    decay = tl.exp2(step[None, :] * rates)
    decayed = decay * state
    return decayed + (step * value)[None, :] * b[:, None], decay, decayed, pre, step, value


@triton.jit
def _back(  # type: ignore[no-untyped-def]
    token, end, carry, rates_grad, skip_grad, shift_grad, decay, decayed, pre, step, value, rates, skip,
    B, C, z, grad_y, grad_u, grad_delta, grad_B, grad_C, grad_z, B_stride, C_stride, z_stride, grad_stride,
    channels, d, n, lane, N: tl.constexpr, NP: tl.constexpr, HAS_Z: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """One step back: writes the gradients at a token, returns those that go on."""
    real = token < end
    inside, n_inside = d < tl.where(real, channels, 0), n < tl.where(real, N, 0)
    b = _row(B, token, B_stride, n, n_inside)
    c = _row(C, token, C_stride, n, n_inside)
    grad = _row(grad_y, token, grad_stride, d, inside)
    drive = step * value
    state = decayed + drive[None, :] * b[:, None]
    if HAS_Z:
        gate = _row(z, token, z_stride, d, inside)
        open_ = _sigmoid(gate)
        out = tl.sum(state * c[:, None], axis=0) + skip * value
        slope = open_ * (1.0 + gate * (1.0 - open_))
        tl.store(grad_z + token * channels + d, (grad * out * slope).to(grad_z.dtype.element_ty), mask=inside)
        grad = grad * gate * open_
    carry += grad[None, :] * c[:, None]
    _store_sums(grad_C + token * N, grad[None, :] * state, lane, n, N, NP, real, FOLD)
    _store_sums(grad_B + token * N, carry * drive[None, :], lane, n, N, NP, real, FOLD)
    drive_grad = tl.sum(carry * b[:, None], axis=0)
    product = carry * decayed
    rates_grad += product * step[None, :]
    step_grad = tl.sum(product * rates, axis=0) * LN_2 + drive_grad * value
    pre_grad = tl.where(real, step_grad * _sigmoid(pre), 0.0)
    u_grad = drive_grad * step + grad * skip
    tl.store(grad_delta + token * channels + d, pre_grad.to(grad_delta.dtype.element_ty), mask=inside)
    tl.store(grad_u + token * channels + d, u_grad.to(grad_u.dtype.element_ty), mask=inside)
    return carry * decay, rates_grad, skip_grad + grad * value, shift_grad + pre_grad


@triton.jit(do_not_specialize=["channels"])
def _backward_kernel(  # type: ignore[no-untyped-def]
    u, delta, A, B, C, D, z, bias, starts, stored, scratch, grad_y, grad_final,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_initial,
    u_stride, delta_stride, B_stride, C_stride, z_stride, grad_stride, tokens, sequences, groups, channels,
    N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_FINAL: tl.constexpr,
    FOLD: tl.constexpr,
):  # fmt: skip
    block, group = tl.program_id(0), tl.program_id(1)
    d = block * BLOCK + tl.arange(0, BLOCK)
    n = tl.arange(0, NP)
    d_mask, n_mask = d < channels, n < N
    mask = n_mask[:, None] & d_mask[None, :]
    place = n[:, None] * channels + d[None, :]
    plane = channels.to(tl.int64) * N
    rates = tl.load(A + place, mask=mask, other=0.0) * LOG2_E
    skip = tl.zeros([BLOCK], tl.float32)
    if HAS_D:
        skip = tl.load(D + d, mask=d_mask, other=0.0)
    shift = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + d, mask=d_mask, other=0.0)
    # Each block of channels sums the gradients of B and C for itself.
    grad_B += block.to(tl.int64) * tokens * N
    grad_C += block.to(tl.int64) * tokens * N
    # Rows of an odd length: the compiler then gives each lane one channel, not four.
    PLANE: tl.constexpr = NP * (BLOCK + 1)
    own = (group.to(tl.int64) * tl.num_programs(0) + block) * (CHUNK // 2 * PLANE)
    kept = scratch + own + n[:, None] * (BLOCK + 1) + tl.arange(0, BLOCK)[None, :]
    rates_grad = tl.zeros([NP, BLOCK], tl.float32)
    lane = tl.arange(0, BLOCK)
    if FOLD:
        # Lanes exchange values by their numbers: where the compiler has not laid a channel into each, all is NaN.
        misplaced = tl.sum((_lanes(rates) != lane[None, :]).to(tl.int32))
        rates = tl.where(misplaced == 0, rates, float("nan"))
    skip_grad = tl.zeros([BLOCK], tl.float32)
    shift_grad = tl.zeros([BLOCK], tl.float32)
    for sequence in range(group, sequences, groups):
        start = tl.load(starts + sequence)
        end = tl.load(starts + sequence + 1)
        carry = tl.zeros([NP, BLOCK], tl.float32)
        if HAS_FINAL:
            carry = tl.load(grad_final + sequence * plane + place, mask=mask, other=0.0)
        chunks = tl.cdiv(end - start, CHUNK)
        for chunk_back in range(0, chunks):
            chunk = chunks - 1 - chunk_back
            first = start + chunk * CHUNK
            pairs = tl.cdiv(tl.minimum(end - first, CHUNK), 2)
            state = tl.load(stored + (start // CHUNK + sequence + chunk) * plane + place, mask=mask, other=0.0)
            for pair in range(0, pairs):
                tl.store(kept + pair * PLANE, state)
                for token in range(first + pair * 2, first + pair * 2 + 2):
                    state, _, _, _, _, _ = _again(
                        token, end, state, rates, shift, u, delta, B, u_stride, delta_stride, B_stride,
                        channels, d, n, N,
                    )  # fmt: skip
            tl.debug_barrier()
            for pair_back in range(0, pairs):
                pair = pairs - 1 - pair_back
                token = first + pair * 2
                state = tl.load(kept + pair * PLANE)
                state, decay0, decayed0, pre0, step0, value0 = _again(
                    token, end, state, rates, shift, u, delta, B, u_stride, delta_stride, B_stride,
                    channels, d, n, N,
                )  # fmt: skip
                state, decay1, decayed1, pre1, step1, value1 = _again(
                    token + 1, end, state, rates, shift, u, delta, B, u_stride, delta_stride, B_stride,
                    channels, d, n, N,
                )  # fmt: skip
                carry, rates_grad, skip_grad, shift_grad = _back(
                    token + 1, end, carry, rates_grad, skip_grad, shift_grad, decay1, decayed1, pre1, step1,
                    value1, rates, skip, B, C, z, grad_y, grad_u, grad_delta, grad_B, grad_C, grad_z,
                    B_stride, C_stride, z_stride, grad_stride, channels, d, n, lane, N, NP, HAS_Z, FOLD,
                )  # fmt: skip
                carry, rates_grad, skip_grad, shift_grad = _back(
                    token, end, carry, rates_grad, skip_grad, shift_grad, decay0, decayed0, pre0, step0,
                    value0, rates, skip, B, C, z, grad_y, grad_u, grad_delta, grad_B, grad_C, grad_z,
                    B_stride, C_stride, z_stride, grad_stride, channels, d, n, lane, N, NP, HAS_Z, FOLD,
                )  # fmt: skip
            tl.debug_barrier()
        if HAS_INITIAL:
            tl.store(grad_initial + sequence * plane + place, carry, mask=mask)
    tl.store(grad_A + group * plane + place, rates_grad, mask=mask)
    tl.store(grad_D + group * channels + d, skip_grad, mask=d_mask)
    tl.store(grad_bias + group * channels + d, shift_grad, mask=d_mask)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    cu_seqlens: Tensor,
    initial_states: Tensor | None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    *,
    need_final: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `packed_selective_scan`; u, delta, B, C and z in any dtype, computed in float32; y in u's dtype.

    Not differentiable with an index or into `out`.
    """
    # Within the kernels channels are contiguous in A and in states too.
    rates = A.t().float().contiguous()
    D = None if D is None else D.float().contiguous()
    delta_bias = None if delta_bias is None else delta_bias.float().contiguous()
    initial_states = None if initial_states is None else initial_states.transpose(1, 2).float().contiguous()
    u, delta, B, C = (_rows(tensor) for tensor in (u, delta, B, C))
    z = None if z is None else _rows(z)
    starts = cu_seqlens.to(u.device, torch.int64).contiguous()
    arguments = (u, delta, rates, B, C, D, z, delta_bias, initial_states, starts, need_final)
    if initial_index is None and out is None:
        y, final = _SelectiveScan.apply(*arguments)
    else:
        y, final, _ = _forward(*arguments, keep=False, index=initial_index, out=out)
    return y, None if final is None else final.transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _grid(channels: int, sequences: int) -> tuple[int, int]:
    """Blocks of channels, and groups of sequences."""
    blocks = triton.cdiv(channels, BLOCK)
    return blocks, max(1, min(sequences, triton.cdiv(PROGRAMS, blocks)))


def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None,
    initial: Tensor | None, starts: Tensor, need_final: bool, *, keep: bool, index: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    (tokens, channels), states, sequences = u.shape, A.shape[0], len(starts) - 1
    y = u.new_empty(tokens, channels) if out is None else out
    final = A.new_empty(sequences, states, channels) if need_final else None
    # A sequence's stored states begin at start // CHUNK + its number: apart from the next one's, whatever lengths.
    stored = A.new_empty(tokens // CHUNK + sequences + 1, states, channels) if keep else None
    grid = _grid(channels, sequences)
    if sequences:
        _forward_kernel[grid](
            u, delta, A, B, C, D, z, bias, starts, initial, index, y, final, stored,
            u.stride(0), delta.stride(0), B.stride(0), C.stride(0), 0 if z is None else z.stride(0),
            sequences, grid[1], channels,
            N=states, NP=triton.next_power_of_2(states), BLOCK=BLOCK, CHUNK=CHUNK, HAS_D=D is not None,
            HAS_Z=z is not None, HAS_BIAS=bias is not None, HAS_INITIAL=initial is not None,
            HAS_INDEX=index is not None, NEED_FINAL=need_final, STORE=keep, num_warps=BLOCK // 32,
        )  # fmt: skip
    return y, final, stored


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        y, final, stored = _forward(*arguments, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(*arguments[:-1], stored)
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, z, bias, initial, starts, stored = ctx.saved_tensors
        (tokens, channels), states, sequences = u.shape, A.shape[0], len(starts) - 1
        grad_y = u.new_zeros(tokens, channels) if grad_y is None else _rows(grad_y)
        grad_final = None if grad_final is None else grad_final.float().contiguous()
        grid = _grid(channels, sequences)
        blocks, groups = grid
        padded = triton.next_power_of_2(states)
        scratch = A.new_empty(blocks * groups, CHUNK // 2, padded, BLOCK + 1)
        grad_u, grad_delta = u.new_empty(tokens, channels), delta.new_empty(tokens, channels)
        grad_z = None if z is None else z.new_empty(tokens, channels)
        grad_B, grad_C = A.new_empty(blocks, tokens, states), A.new_empty(blocks, tokens, states)
        grad_A = A.new_empty(groups, states, channels)
        grad_D, grad_bias = A.new_empty(groups, channels), A.new_empty(groups, channels)
        grad_initial = None if initial is None else torch.empty_like(initial)
        if sequences:
            _backward_kernel[grid](
                u, delta, A, B, C, D, z, bias, starts, stored, scratch, grad_y, grad_final,
                grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_initial,
                u.stride(0), delta.stride(0), B.stride(0), C.stride(0), 0 if z is None else z.stride(0),
                grad_y.stride(0), tokens, sequences, groups, channels,
                N=states, NP=padded, BLOCK=BLOCK, CHUNK=CHUNK, HAS_D=D is not None, HAS_Z=z is not None,
                HAS_BIAS=bias is not None, HAS_INITIAL=initial is not None, HAS_FINAL=grad_final is not None,
                FOLD=FOLD and u.is_cuda, num_warps=BLOCK // 32,
            )  # fmt: skip
        return (
            grad_u,
            grad_delta,
            grad_A.sum(0),
            grad_B.sum(0).to(B.dtype),
            grad_C.sum(0).to(C.dtype),
            None if D is None else grad_D.sum(0),
            grad_z,
            None if bias is None else grad_bias.sum(0),
            grad_initial,
            None,
            None,
        )
