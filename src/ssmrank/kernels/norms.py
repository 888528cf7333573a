"""Root-mean-square norms (Zhang & Sennrich 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, computed in float32 (float64 if x is); x's dtype."""
    return _norm(x, None, weight, eps, x.shape[-1])


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
    return _norm(x, z, weight, eps, group_size or x.shape[-1])


def _norm(x: Tensor, z: Tensor | None, weight: Tensor, eps: float, size: int) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide, gate, scale = x.to(dtype), None if z is None else z.to(dtype), weight.to(dtype)
    if x.device.type == "cpu" and dtype == torch.float32:
        from ssmrank.kernels import norms_numba

        if norms_numba.supports(size):
            return norms_numba.norm(wide, gate, scale, eps, size).to(x.dtype)
    return norm_reference(wide, gate, scale, eps, size).to(x.dtype)


def norm_reference(x: Tensor, z: Tensor | None, weight: Tensor, eps: float, size: int) -> Tensor:
    """The same in plain PyTorch, on any device and in any dtype."""
    gated = x if z is None else x * torch.nn.functional.silu(z)
    if size == x.shape[-1]:
        return torch.nn.functional.rms_norm(gated, weight.shape, weight, eps)
    grouped = gated.unflatten(-1, (-1, size))
    return torch.nn.functional.rms_norm(grouped, (size,), None, eps).flatten(-2) * weight
