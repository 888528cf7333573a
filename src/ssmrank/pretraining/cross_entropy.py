"""Cross entropy over a vocabulary, without all logits in memory at once."""

from __future__ import annotations

from typing import Any

import torch

from ssmrank.kernels.cross_entropy import slope_by_logits

ROWS = 8192
"""Rows whose logits are in memory at once."""


def vocabulary_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """The sum over rows of -log softmax(hidden weightᵀ + bias)[target], float32.

    hidden [M, d], weight [V, d], bias [V] or None, targets int64 [M]. Rows whose target is IGNORED do not count.
    Matmuls run in autocast's dtype, the softmax in float32. The forward pass computes the gradients too, so the logits
    of a piece of rows are freed before the next piece.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return _VocabularyCrossEntropy.apply(hidden, weight, bias, targets, dtype)


class _VocabularyCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        wants_gradients = any(ctx.needs_input_grad[:3])
        wide = torch.promote_types(dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if wants_gradients else None
        d_weight = torch.zeros_like(weight) if wants_gradients else None
        d_bias = torch.zeros_like(bias) if wants_gradients and bias is not None else None
        with torch.autocast(hidden.device.type, enabled=False):
            w = weight.to(dtype)
            for start in range(0, len(hidden), ROWS):
                rows = slice(start, start + ROWS)
                h = hidden[rows].to(dtype)
                losses, slope = slope_by_logits(h @ w.t(), bias, targets[rows])
                total += losses.sum()
                if d_hidden is None or d_weight is None:
                    continue
                if d_bias is not None:
                    d_bias += slope.sum(0, dtype=wide)
                d_hidden[rows] = slope @ w
                d_weight += slope.t() @ h
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        [scale] = gradients
        scaled = [None if d is None else d * scale for d in ctx.saved_tensors]
        return (*scaled, None, None)
