"""A softmax cross entropy and its slope in plain PyTorch: any device and floating dtype."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -1
"""Target of a row that is only padding."""


def slope_by_logits(logits: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """See `cross_entropy.slope_by_logits`."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    values = logits.to(wide)
    if bias is not None:
        values = values + bias
    counts = (targets != IGNORED).to(wide)[:, None]
    target = targets.clamp(min=0)[:, None]
    normalizer = torch.logsumexp(values, dim=1, keepdim=True)
    losses = (normalizer - values.gather(1, target)) * counts
    slope = (values - normalizer).exp_()
    slope.scatter_add_(1, target, slope.new_full(target.shape, -1.0))
    return losses.squeeze(1), (slope * counts).to(logits.dtype)
