"""Mamba-2's mixer over packed sequences on a GPU, in Triton; its backward pass is in `triton_ssd_backward`.

A sequence is cut into chunks of Q tokens. Within a chunk the mixer is masked attention without softmax, y = (C Bᵀ ∘
decays) Δx; between chunks a head hands on its state `[N, P]` (Dao & Gu 2024, section 6). A small kernel first sums the
decays up within each chunk. Then a program takes one head through one sequence, chunk after chunk, with the state in
registers and the next chunk's tiles on their way to shared memory: it writes nothing but y, and a sequence of one
chunk, as most passages are, touches no state at all. Since Hopper a unit of the GPU copies these tiles by itself, which
spares the registers and instructions that addresses take: a third of the time.

Chunks lie in slots: sequence s, which starts at token t, has those from t // Q + s on, as many as it needs, so that
where they lie depends on nothing but the starts, and their number on shapes alone.

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
from triton.tools.tensor_descriptor import TensorDescriptor

from ssmrank.kernels.gpu.rows import dense
from ssmrank.kernels.gpu.sums import add_columns

CHUNK = 64
"""Tokens of a chunk."""

FLOAT32_CHUNK = 16
"""Tokens of a chunk of float32 tensors, at most: their products are unrolled, and longer ones compile for minutes."""

BLOCK = 16
"""Heads of whose decays a program takes the sums."""

FORWARD: dict[str, int] = {"num_warps": 4, "num_stages": 2}

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
def _tile(base, rows, stride, columns, left):  # type: ignore[no-untyped-def]
    """`[rows, columns]` from the row at `base` on, zero from row `left` on."""
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=(rows < left)[:, None], other=0.0)


@triton.jit
def _owner(starts, slot, sequences, halvings, Q: tl.constexpr):  # type: ignore[no-untyped-def]
    """The last sequence whose slots do not begin behind this one."""
    low = slot * 0
    high = low + sequences
    for _ in range(0, halvings):
        middle = (low + high) // 2
        found = tl.load(starts + middle) // Q + middle <= slot
        low = tl.where(found & (high - low > 1), middle, low)
        high = tl.where(found, high, tl.maximum(middle, low + 1))
    return low


@triton.jit
def _decays_kernel(  # type: ignore[no-untyped-def]
    dt, A, bias, starts, decays, owners, dt_stride, heads, sequences, halvings,
    Q: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr, LOG: tl.constexpr,
):  # fmt: skip
    """Of a chunk's tokens and some heads the log2 decay from the chunk's start, and that less log2 Δ.

    What token j adds to token i decays by 2^(first of i - second of j), Δ included. A token behind the end has no Δ.
    """
    slot = tl.program_id(0)
    sequence = _owner(starts, slot, sequences, halvings, Q)
    start, end = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    first = start + (slot - start // Q - sequence) * Q
    if tl.program_id(1) == 0:
        tl.store(owners + slot, tl.where(first < end, sequence, -1))
    if first < end:
        inside, head = tl.arange(0, Q), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        known = head < heads
        real = (inside < end - first)[:, None] & known[None, :]
        value = tl.load(dt + first * dt_stride + inside[:, None] * dt_stride + head[None, :], mask=real, other=0.0)
        value = value.to(tl.float32)
        if HAS_BIAS:
            value += tl.load(bias + head, mask=known, other=0.0)[None, :]
        rate = tl.load(A + head, mask=known, other=0.0)
        if LOG:
            rate = -tl.exp2(rate * LOG2_E)
        step = tl.where(real, _softplus(value), 0.0)
        total = tl.cumsum(step * (rate * LOG2_E)[None, :], axis=0)
        place = decays + slot.to(tl.int64) * heads * (2 * Q) + head[None, :] * (2 * Q) + inside[:, None]
        tl.store(place, total, mask=known[None, :])
        tl.store(place + Q, total - tl.log2(step), mask=known[None, :])


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x, B, C, decays, D, starts, initial, index, y, final, x_stride, B_stride, C_stride, heads, per_group,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, HAS_D: tl.constexpr, HAS_INITIAL: tl.constexpr,
    HAS_INDEX: tl.constexpr, NEED_FINAL: tl.constexpr, PRECISION: tl.constexpr, COPIED: tl.constexpr,
):  # fmt: skip
    """y and the last state.

    Products are taken transposed: the state, `[P, N]`, then is a product's first operand, which comes from registers.

    COPIED: x, B and C are tensor descriptors. Then rows behind the sequence's end are the next one's, where they are
    otherwise zeros; they are weighed with zeros, for the decays are of no step there (so a NaN would pass over).
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
            values = _tile(x, inside, x_stride, p, left)
            b, c = _tile(B, inside, B_stride, n, left), _tile(C, inside, C_stride, n, left)
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

    Not differentiable with an index or into `out`; final states are then in x's dtype too, to which products round them
    in any case.
    """
    x, dt, B, C = map(dense, (x, dt, B, C))
    x, B, C = (head_major(tensor) for tensor in (x, B, C))
    A = A.float().contiguous()
    D, dt_bias = (None if tensor is None else tensor.float().contiguous() for tensor in (D, dt_bias))
    initial = None if initial_states is None else initial_states.contiguous()
    starts = cu_seqlens.to(x.device, torch.int64).contiguous()
    inputs = (x, dt, A, B.to(x.dtype), C.to(x.dtype), D, dt_bias)
    if initial_index is None and out is None:
        y, final = _Ssd.apply(*inputs, None if initial is None else initial.float(), starts, need_final)
        return y, final
    y, final = _outputs(x, B, starts, out, x.dtype if need_final else None)
    index = None if initial_index is None else initial_index.contiguous()
    if initial is not None and index is not None and not need_final and longest is not None:
        from ssmrank.kernels.ssd import gpu_suffixes as triton_ssd_suffixes

        if longest <= triton_ssd_suffixes.TILE:
            triton_ssd_suffixes.run(*inputs, initial, starts, index, y)
            return y, None
    run(*inputs, starts, initial, index, y=y, final=final)
    return y, final


def _outputs(
    x: Tensor, B: Tensor, starts: Tensor, out: Tensor | None, final_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor | None]:
    shape = (len(starts) - 1, *x.shape[1:], B.shape[2])
    final = None if final_dtype is None else x.new_empty(shape, dtype=final_dtype)
    return x.new_empty(x.shape) if out is None else out, final


def head_major(tensor: Tensor) -> Tensor:
    """A tensor `[T, heads, width]` whose heads follow one another within a row."""
    return tensor if tensor.stride(1) == tensor.shape[2] or tensor.shape[1] == 1 else tensor.contiguous()


class _Ssd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        x, dt, A, B, C, D, bias, initial, starts, need_final = arguments
        y, final = _outputs(x, B, starts, None, torch.float32 if need_final else None)
        run(x, dt, A, B, C, D, bias, starts, initial, y=y, final=final)
        ctx.save_for_backward(*arguments[:-1])
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        from ssmrank.kernels.ssd import gpu_backward as triton_ssd_backward

        x, dt, A, B, C, D, bias, initial, starts = ctx.saved_tensors
        grad_y = x.new_zeros(x.shape) if grad_y is None else grad_y.to(x.dtype)
        grad_y = head_major(dense(grad_y))
        grad_final = None if grad_final is None else grad_final.float().contiguous()
        out = x.new_empty(x.shape), dt.new_empty(dt.shape), x.new_empty(B.shape), x.new_empty(B.shape)
        sums, grad_initial = A.new_zeros(1, 3 * len(A)), None if initial is None else torch.empty_like(initial)
        if len(starts) > 1:
            sums, grad_initial = triton_ssd_backward.run(
                x, dt, A, B, C, D, bias, starts, initial, grad_y, grad_final, out, log=False
            )
        grad_x, grad_dt, grad_B, grad_C = out
        grad_A, grad_D, grad_bias = add_columns(sums)[0].view(3, -1)
        return (
            *(grad_x, grad_dt, grad_A, grad_B, grad_C),
            None if D is None else grad_D,
            None if bias is None else grad_bias,
            *(grad_initial, None, None),
        )


def run(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    bias: Tensor | None,
    starts: Tensor,
    initial: Tensor | None = None,
    index: Tensor | None = None,
    *,
    y: Tensor,
    final: Tensor | None = None,
    log: bool = False,
) -> None:
    """Writes y and, where wanted, the final states; `log`: A is the logarithm of its negative.

    Rows of x, dt, B and C may lie apart, their heads (groups) follow one another; y and the rest is contiguous.
    """
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


def may_be_copied(*tensors: Tensor) -> bool:
    """Whether the GPU has a unit that copies tiles into shared memory by itself, and it can read these tensors."""
    if not len(tensors[0]):
        return False
    if tensors[0].is_cuda and (torch.version.hip or torch.cuda.get_device_capability(tensors[0].device) < (9, 0)):
        return False
    return all(t.stride(0) * t.element_size() % 16 == 0 and t.data_ptr() % 16 == 0 for t in tensors)


def described(tensor: Tensor, rows: int) -> TensorDescriptor:
    """`[T, heads, width]` as a matrix of which a kernel takes tiles of so many rows and one head."""
    tokens, heads, width = tensor.shape
    return TensorDescriptor(tensor, [tokens, heads * width], [tensor.stride(0), 1], [rows, width])


def slots_of(tokens: int, sequences: int, chunk: int) -> int:
    """Slots of chunks that so many tokens in so many sequences may need."""
    return tokens // chunk + sequences


def chunk_decays(
    dt: Tensor, A: Tensor, bias: Tensor | None, starts: Tensor, chunk: int, *, log: bool
) -> tuple[Tensor, Tensor]:
    """What `_decays_kernel` sums up, float32 `[slots, H, 2, chunk]`, and the sequence of each slot or -1, int32."""
    (tokens, heads), sequences = dt.shape, len(starts) - 1
    slots = slots_of(tokens, sequences, chunk)
    decays = dt.new_empty(slots, heads, 2, chunk, dtype=torch.float32)
    owners = starts.new_empty(slots, dtype=torch.int32)
    _decays_kernel[slots, triton.cdiv(heads, BLOCK)](
        dt, A, bias, starts, decays, owners, dt.stride(0), heads, sequences, sequences.bit_length(),
        Q=chunk, BLOCK=BLOCK, HAS_BIAS=bias is not None, LOG=log, num_warps=4,
    )  # fmt: skip
    return decays, owners


def chunk_of(x: Tensor, chunk: int) -> int:
    """Tokens of a chunk in x's dtype, of which `chunk` would be the best."""
    return min(chunk, FLOAT32_CHUNK) if x.dtype == torch.float32 else chunk


def precision_of(x: Tensor) -> str:
    """How matrix products of operands in x's dtype are taken."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def launch(x: Tensor, options: dict[str, int]) -> dict[str, int]:
    """Launch options; tiles of float32 fill shared memory without the next ones."""
    return options | {"num_stages": 1} if x.dtype == torch.float32 else options
