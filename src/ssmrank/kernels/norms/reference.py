"""Root-mean-square norms in plain PyTorch: any device and floating dtype, autograd through."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Unscaled(NamedTuple):
    """Rows whose root-mean-square norm is still to be applied; a linear layer may come before it.

    rows `[T, C]`; squares float32 `[parts, T]`, the sums of squares of parts of the rows that are normed; size: values
    in all parts together; eps: added to the mean square.
    """

    rows: Tensor
    squares: Tensor
    size: int
    eps: float

    def scaled(self) -> Tensor:
        """The rows times their factors, in float32."""
        return self.rows.float() * self._factors()

    def scale_(self) -> Tensor:
        """The rows, after they are multiplied by their factors in place: one pass over memory."""
        return self.rows.mul_(self._factors())

    def _factors(self) -> Tensor:
        return torch.rsqrt(self.squares.sum(0) / self.size + self.eps)[:, None]


def norm(x: Tensor, z: Tensor | None, weight: Tensor, eps: float, size: int) -> Tensor:
    """See `gated_rms_norm` and, where z is None, `rms_norm`; over groups of `size` channels."""
    gated = x if z is None else x * torch.nn.functional.silu(z)
    if size == x.shape[-1]:
        return torch.nn.functional.rms_norm(gated, weight.shape, weight, eps)
    grouped = gated.unflatten(-1, (-1, size))
    return torch.nn.functional.rms_norm(grouped, (size,), None, eps).flatten(-2) * weight
