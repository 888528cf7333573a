"""Root-mean-square norms on a CPU without gradients: the definition in place, by blocks of rows that stay in cache."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # by name, because `deterministic: batch` replaces F.silu

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
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    scale, groups = weight.view(-1, size), (-1, size)
    rows, out = x.reshape(-1, x.shape[-1]), result.view(-1, x.shape[-1])
    gates = None if z is None else z.reshape(rows.shape)
    for block in _blocks(rows):
        values = rows[block].unflatten(-1, groups).to(dtype)
        target = out[block].unflatten(-1, groups) if x.dtype == dtype else torch.empty_like(values)
        if gates is not None:
            values = F.silu(gates[block].unflatten(-1, groups).to(dtype)).mul_(values)
        factors = values.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        torch.mul(values, factors, out=target).mul_(scale)
        if x.dtype != dtype:
            out[block].copy_(target.flatten(-2))
    return result


def _blocks(rows: Tensor) -> list[slice]:
    step = max(1, BLOCK // max(1, rows.shape[1]))
    return [slice(first, first + step) for first in range(0, len(rows), step)]
