"""A softmax cross entropy over a vocabulary, and its gradient with respect to the logits (the slope)."""

from __future__ import annotations

from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.cross_entropy import reference
from ssmrank.kernels.cross_entropy.reference import IGNORED
from ssmrank.kernels.dispatch import Implementation

__all__ = ["IGNORED", "slope_by_logits"]


def slope_by_logits(logits: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax(logits + bias)[target] of each row, and its gradient with respect to the logits.

    Args:
        logits: contiguous `[M, V]`; they may be overwritten.
        bias: `[V]` or None.
        targets: int64 `[M]`; a row whose target is IGNORED has loss and slope 0.

    Returns:
        Losses `[M]` in float32 (float64 if the logits are), and slopes `[M, V]` in the logits' dtype.
    """
    if dispatch.cross_entropy(logits) is Implementation.GPU:
        from ssmrank.kernels.cross_entropy import gpu

        return gpu.to_slope(logits, bias, targets), logits
    return reference.slope_by_logits(logits, bias, targets)
