"""The inputs of Mamba-2's mixer, for all implementations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SSDInputs(NamedTuple):
    """The tensors of Mamba-2's mixer: T tokens, H heads of width P, G groups of heads with N states each."""

    x: Tensor
    """`[T, H, P]`, sequences laid end to end."""
    dt: Tensor
    """`[T, H]`, step sizes before bias and softplus."""
    A: Tensor
    """`[H]`, negative decay rates."""
    B: Tensor
    """`[T, G, N]`, each group shared by H / G heads."""
    C: Tensor
    """`[T, G, N]`."""
    D: Tensor | None = None
    """`[H]`."""
    dt_bias: Tensor | None = None
    """`[H]`."""

    def steps(self) -> Tensor:
        """Step sizes after bias and softplus, `[T, H]`."""
        return torch.nn.functional.softplus(self.dt if self.dt_bias is None else self.dt + self.dt_bias)

    def to(self, dtype: torch.dtype) -> SSDInputs:
        """All tensors in one dtype."""
        return SSDInputs(*(None if tensor is None else tensor.to(dtype) for tensor in self))  # type: ignore[arg-type]
