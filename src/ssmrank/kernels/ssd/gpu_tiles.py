"""What the kernels of Mamba-2's mixer share on a GPU: tiles of tokens, step sizes, and the decays within chunks.

Chunks are in slots. Sequence s, which starts at token t, has the slots from t // Q + s on, as many as it needs. A
chunk's slot depends only on the starts, and the number of slots only on shapes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

FLOAT32_CHUNK = 16
"""The most tokens of a chunk in float32, whose products are unrolled: longer chunks take minutes to compile."""

BLOCK = 16
"""Heads whose decays a program sums."""

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def softplus(x):  # type: ignore[no-untyped-def]
    """log(1 + e^x) with a small relative error at both ends (Kahan's log1p)."""
    small = tl.exp2(-tl.abs(x) * LOG2_E)
    one = 1.0 + small
    rest = tl.where(one == 1.0, small, tl.log(one) * (small / tl.where(one == 1.0, 1.0, one - 1.0)))
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + rest


@triton.jit
def load_rows(base, rows, stride, columns, real):  # type: ignore[no-untyped-def]
    """Loads `[rows, columns]` of a tensor, zero where a row is not real."""
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=real[:, None], other=0.0)


@triton.jit
def load_steps(dt, rows, stride, head, shift, real):  # type: ignore[no-untyped-def]
    """Step sizes before and after softplus, float32 `[Q]`; zero after the end, where they neither decay nor add."""
    before = tl.load(dt + rows * stride + head, mask=real, other=0.0).to(tl.float32) + shift
    return before, tl.where(real, softplus(before), 0.0)


@triton.jit
def load_tile(base, rows, stride, columns, left):  # type: ignore[no-untyped-def]
    """Loads `[rows, columns]` from the row at `base` on, zero from row `left` on."""
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=(rows < left)[:, None], other=0.0)


@triton.jit
def _owner(starts, slot, sequences, halvings, Q: tl.constexpr):  # type: ignore[no-untyped-def]
    """The last sequence whose slots do not begin after this one."""
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
    """For a chunk's tokens and some heads: the log2 decay from the chunk's start, and the same less log2 Δ.

    Token j's contribution to token i has the factor 2^(first of i - second of j), Δ included. Δ is 0 after the end.
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
        step = tl.where(real, softplus(value), 0.0)
        total = tl.cumsum(step * (rate * LOG2_E)[None, :], axis=0)
        place = decays + slot.to(tl.int64) * heads * (2 * Q) + head[None, :] * (2 * Q) + inside[:, None]
        tl.store(place, total, mask=known[None, :])
        tl.store(place + Q, total - tl.log2(step), mask=known[None, :])


def head_major(tensor: Tensor) -> Tensor:
    """The tensor `[T, heads, width]` with contiguous heads within a row; copied if need be."""
    return tensor if tensor.stride(1) == tensor.shape[2] or tensor.shape[1] == 1 else tensor.contiguous()


def may_be_copied(*tensors: Tensor) -> bool:
    """Whether the GPU has a unit that copies tiles to shared memory, and that unit can read these tensors."""
    if not len(tensors[0]):
        return False
    if tensors[0].is_cuda and (torch.version.hip or torch.cuda.get_device_capability(tensors[0].device) < (9, 0)):
        return False
    return all(t.stride(0) * t.element_size() % 16 == 0 and t.data_ptr() % 16 == 0 for t in tensors)


def described(tensor: Tensor, rows: int) -> TensorDescriptor:
    """Describes `[T, heads, width]` as a matrix with tiles of `rows` rows and one head."""
    tokens, heads, width = tensor.shape
    return TensorDescriptor(tensor, [tokens, heads * width], [tensor.stride(0), 1], [rows, width])


def slots_of(tokens: int, sequences: int, chunk: int) -> int:
    """The most slots that chunks of `tokens` tokens in `sequences` sequences need."""
    return tokens // chunk + sequences


def chunk_decays(
    dt: Tensor, A: Tensor, bias: Tensor | None, starts: Tensor, chunk: int, *, log: bool
) -> tuple[Tensor, Tensor]:
    """The sums of `_decays_kernel`, float32 `[slots, H, 2, chunk]`, and each slot's sequence or -1, int32 `[slots]`."""
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
    """Tokens of a chunk in x's dtype; `chunk` is the best number unless the dtype limits it."""
    return min(chunk, FLOAT32_CHUNK) if x.dtype == torch.float32 else chunk


def precision_of(x: Tensor) -> str:
    """The input precision of matmuls of operands in x's dtype."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def launch(x: Tensor, options: dict[str, int]) -> dict[str, int]:
    """Launch options; float32 tiles fill shared memory, so the next ones are not prefetched."""
    return options | {"num_stages": 1} if x.dtype == torch.float32 else options
