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

    def stepped(self) -> SSDInputs:
        """These inputs."""
        return self

    def weighed(self) -> WeighedInputs:
        """The same recurrence, with what a step adds and what it leaves given for each token; without D."""
        steps = self.steps()
        return WeighedInputs(self.x, steps, steps * self.A, self.B, self.C)


class WeighedInputs(NamedTuple):
    """The same recurrence where a step's weight does not follow from its decay: h_t = exp(g_t) h_{t-1} + w_t x_t B_tᵀ.

    y_t = h_t C_t, as without D.
    """

    x: Tensor
    """`[T, H, P]`, sequences laid end to end."""
    weights: Tensor
    """`[T, H]`, w: what a step's input is multiplied by."""
    log_decays: Tensor
    """`[T, H]`, g, at most 0: the logarithm of what a step leaves of a state."""
    B: Tensor
    """`[T, G, N]`, each group shared by H / G heads."""
    C: Tensor
    """`[T, G, N]`."""

    @property
    def D(self) -> None:
        """There is no skip connection."""
        return None

    def to(self, dtype: torch.dtype) -> WeighedInputs:
        """All tensors in one dtype."""
        return WeighedInputs(*(tensor.to(dtype) for tensor in self))

    def weighed(self) -> WeighedInputs:
        """These inputs."""
        return self

    def stepped(self) -> SSDInputs:
        """The same recurrence for kernels that make weights and decays from one step size.

        A step is -g with A = -1, and x is multiplied by what its weight is more than the step. A step is at least
        `LEAST_STEP`.
        """
        steps = (-self.log_decays.float()).clamp(min=LEAST_STEP)
        x = (self.x * (self.weights / steps)[..., None]).to(self.x.dtype)
        before_softplus = steps + torch.log(-torch.expm1(-steps))
        return SSDInputs(x, before_softplus, steps.new_full(steps.shape[1:], -1.0), self.B, self.C)


LEAST_STEP = 1e-9
"""A step that leaves all of a state, in numbers: float32 rounds what it leaves to 1."""
