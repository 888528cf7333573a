"""Root-mean-square norms in plain PyTorch: any device and floating dtype, autograd through."""

from __future__ import annotations

import torch
from torch import Tensor


def norm(x: Tensor, z: Tensor | None, weight: Tensor, eps: float, size: int) -> Tensor:
    """See `gated_rms_norm` and, where z is None, `rms_norm`; over groups of `size` channels."""
    gated = x if z is None else x * torch.nn.functional.silu(z)
    if size == x.shape[-1]:
        return torch.nn.functional.rms_norm(gated, weight.shape, weight, eps)
    grouped = gated.unflatten(-1, (-1, size))
    return torch.nn.functional.rms_norm(grouped, (size,), None, eps).flatten(-2) * weight
