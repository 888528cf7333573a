"""Root-mean-square norms (Zhang & Sennrich 2019) in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, computed in float32 (float64 if x is); x's dtype."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.nn.functional.rms_norm(wide, weight.shape, weight.to(wide.dtype), eps).to(x.dtype)


def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float, group_size: int | None = None) -> Tensor:
    """Mamba-2's norm, of x · silu(z), over groups of `group_size` channels (None: over all).

    Args:
        x, z: `[..., C]`.
        weight: `[C]`.
        eps: added to the mean square.
        group_size: a divisor of C.

    Returns:
        `[..., C]` in x's dtype, computed in float32 (float64 if x is).
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    gated = x.to(dtype) * torch.nn.functional.silu(z.to(dtype))
    if group_size is None or group_size == x.shape[-1]:
        return torch.nn.functional.rms_norm(gated, weight.shape, weight.to(dtype), eps).to(x.dtype)
    grouped = gated.unflatten(-1, (-1, group_size))
    normed = torch.nn.functional.rms_norm(grouped, (group_size,), None, eps).flatten(-2)
    return (normed * weight.to(dtype)).to(x.dtype)
