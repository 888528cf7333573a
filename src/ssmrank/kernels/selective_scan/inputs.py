"""The inputs of Mamba-1's scan, for all implementations."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ScanInputs(NamedTuple):
    """The tensors of Mamba-1's selective scan: T tokens, D channels with N states each."""

    u: Tensor
    """`[T, D]`, sequences laid end to end."""
    delta: Tensor
    """`[T, D]`, step sizes before bias and softplus."""
    A: Tensor
    """`[D, N]`, negative decay rates."""
    B: Tensor
    """`[T, N]`."""
    C: Tensor
    """`[T, N]`."""
    D: Tensor | None = None
    """`[D]`."""
    z: Tensor | None = None
    """`[T, D]`, the gate."""
    delta_bias: Tensor | None = None
    """`[D]`."""

    def single(self) -> ScanInputs:
        """All tensors in float32."""
        return ScanInputs(*(None if tensor is None else tensor.float() for tensor in self))  # type: ignore[arg-type]
