"""Attention over packed sequences in which a query's bits do not depend on how queries and keys are batched.

A query's scores are summed over the head's channels in order, and its output over its keys in order, from its
sequence's first token on. So it makes no difference where a sequence is divided into a prefix and what continues it.
"""

from __future__ import annotations

from torch import Tensor

from ssmrank.kernels.attention.ranges import KeyRanges

__all__ = ["KeyRanges", "attention_in_order"]


def attention_in_order(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ranges: KeyRanges,
    *,
    causal: bool,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Softmax attention of queries to the key ranges of their blocks, on a CPU.

    Args:
        q: `[T, H, P]`.
        k, v: `[K, G, P]` in q's dtype, G a divisor of H.
        ranges: which keys the queries see.
        causal: in its block's last range a query sees only keys up to its own place.
        scaling: of scores; None: P^-1/2.
        window: a query sees keys less than this many places away in its sequence; it is in its block's last range.

    Returns:
        `[T, H, P]` in q's dtype, computed in float32. Not differentiable.
    """
    from ssmrank.kernels.attention import cpu

    q32, k32, v32 = q.float(), k.float(), v.float()
    factor = q.shape[-1] ** -0.5 if scaling is None else scaling
    y = cpu.attention(q32, k32, v32, ranges, causal, factor, window or 0)
    return y.to(q.dtype)
