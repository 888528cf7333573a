"""What the gated delta rule takes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class DeltaInputs(NamedTuple):
    """The tensors of T tokens; each of the G heads of keys serves H / G neighbouring heads of values."""

    values: Tensor
    """`[T, H, P]`."""
    queries: Tensor
    """`[T, G, N]`."""
    keys: Tensor
    """`[T, G, N]`; of length one in models."""
    log_decays: Tensor
    """`[T, H]`, at most 0: the logarithm of what a step leaves of a state."""
    rates: Tensor
    """`[T, H]`, from 0 to 1, in some models to 2: how much of what the state holds for a key gives way to the value."""

    def to(self, dtype: torch.dtype) -> DeltaInputs:
        """All tensors in a dtype."""
        return DeltaInputs(*(tensor.to(dtype) for tensor in self))

    def spread(self) -> DeltaInputs:
        """With queries and keys for each head of values."""
        times = self.values.shape[1] // self.keys.shape[1]
        queries, keys = (tensor.repeat_interleave(times, dim=1) for tensor in (self.queries, self.keys))
        return self._replace(queries=queries, keys=keys)
