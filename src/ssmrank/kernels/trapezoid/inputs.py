"""What Mamba-3's recurrence takes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TrapezoidInputs(NamedTuple):
    """T tokens, H heads of width P, G groups of heads. Each group has N states, and R pairs of them turn."""

    x: Tensor
    """`[T, H, P]`, sequences laid end to end."""
    steps: Tensor
    """`[T, H]`, Δ, at least 0."""
    log_decays: Tensor
    """`[T, H]`, at most 0: the logarithm of what a step leaves of a state."""
    shares: Tensor
    """`[T, H]`, λ from 0 to 1: the share of a step's input that is its own token's, not the previous one's."""
    rates: Tensor
    """`[T, R]`, R at most N / 2: a step of Δ turns the r-th pair of states (2r, 2r + 1) by Δ · rate radians."""
    B: Tensor
    """`[T, G, N]`, each group shared by H / G neighbouring heads."""
    C: Tensor
    """`[T, G, N]`."""
    B_bias: Tensor
    """`[H, N]`, added to each head's B."""
    C_bias: Tensor
    """`[H, N]`."""
    D: Tensor
    """`[H]`."""

    def to(self, dtype: torch.dtype) -> TrapezoidInputs:
        """All tensors in a dtype."""
        return TrapezoidInputs(*(tensor.to(dtype) for tensor in self))

    def heads(self) -> tuple[Tensor, Tensor]:
        """B and C of each head with their biases, `[T, H, N]`, before they are turned."""
        times = self.x.shape[1] // self.B.shape[1]
        B, C = (tensor.repeat_interleave(times, dim=1) for tensor in (self.B, self.C))
        return B + self.B_bias, C + self.C_bias


class Before(NamedTuple):
    """The token before each of S sequences, where they continue others."""

    x: Tensor
    """`[S, H, P]`."""
    B: Tensor
    """`[S, G, N]`."""

    def to(self, dtype: torch.dtype) -> Before:
        """All tensors in a dtype."""
        return Before(*(tensor.to(dtype) for tensor in self))


def turned(vectors: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first R pairs (2r, 2r + 1) of `[..., N]` turned by angles, given by their `[..., R]` cosines and sines."""
    turning, still = vectors.tensor_split([2 * cos.shape[-1]], dim=-1)
    first, second = turning.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return torch.cat([pairs.flatten(-2), still], dim=-1)
