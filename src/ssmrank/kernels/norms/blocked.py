"""Root-mean-square norms on a CPU without gradients: the definition in place, by blocks of rows that stay in cache."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmrank.kernels import activations, dispatch

BLOCK = 1 << 17
"""Values in a block: half a megabyte in float32. Smaller ones leave threads without work."""


def norm(x: Tensor, z: Tensor | None, weight: Tensor, eps: float, size: int, dtype: torch.dtype) -> Tensor:
    """The same bits as `reference.norm`, because each row is computed by itself.

    Args:
        x, z: `[..., C]`, of any floating dtype.
        weight: `[C]` in `dtype`.
        eps: added to the mean square.
        size: of a group of channels, a divisor of C.
        dtype: in which the norm is computed.

    Returns:
        `[..., C]` in x's dtype.
    """
    # Modes that replace PyTorch's functions cost as much time as these short operations. None replaces one of them
    # but SiLU, which is chosen here.
    silu = activations.silu if dispatch.is_batch_invariant() else F.silu
    with torch._C.DisableTorchFunction():
        result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        scale = weight.view(-1, size)
        rows, out = _blocks(x, size), _blocks(result, size)
        gates = [None] * len(rows) if z is None else _blocks(z, size)
        for values, gate, target in zip(rows, gates, out, strict=True):
            wide = values.to(dtype)
            normed = target if x.dtype == dtype else torch.empty_like(wide)
            if gate is not None:
                wide = silu(gate.to(dtype)).mul_(wide)
            factors = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
            torch.mul(wide, factors, out=normed).mul_(scale)
            if normed is not target:
                target.copy_(normed)
    return result


def _blocks(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """The rows of `[..., C]` in blocks `[rows, groups, size]`."""
    channels = x.shape[-1]
    return x.reshape(-1, channels).unflatten(-1, (-1, size)).split(max(1, BLOCK // max(1, channels)))
