"""The slope of a softmax cross entropy over a vocabulary on a GPU, in Triton: the logits are read and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _slope_kernel(logits, bias, targets, losses, vocabulary, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < vocabulary
    target = tl.load(targets + row)
    place = logits + row * vocabulary + column
    values = tl.load(place, mask=inside, other=float("-inf")).to(tl.float32)
    if HAS_BIAS:
        values += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    largest = tl.max(values, axis=0)
    exponentials = tl.exp(values - largest)
    total = tl.sum(exponentials, axis=0)
    hit = column == target
    loss = tl.log(total) + largest - tl.sum(tl.where(hit, values, 0.0), axis=0)
    counts = target >= 0
    tl.store(losses + row, tl.where(counts, loss, 0.0))
    slope = tl.where(counts, exponentials / total - hit.to(tl.float32), 0.0)
    tl.store(place, slope.to(logits.dtype.element_ty), mask=inside)


def to_slope(logits: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Puts softmax(logits + bias) - onehot(target) into contiguous `logits` [M, V]; losses of the rows, float32 [M].

    targets int64 [M]; a row with a negative target has loss and slope 0. V is at most `dispatch.LARGEST_VOCABULARY`.
    """
    rows, vocabulary = logits.shape
    losses = logits.new_empty(rows, dtype=torch.float32)
    if rows:
        block = triton.next_power_of_2(vocabulary)
        _slope_kernel[(rows,)](
            logits, bias, targets, losses, vocabulary, BLOCK=block, HAS_BIAS=bias is not None,
            num_warps=min(max(block // 1024, 1), 16),
        )  # fmt: skip
    return losses
