"""Matrix products that compute each row independently of the others.

A library chooses its kernel by the number of rows, so the same row may get other last bits in another batch. Here a
row's sums are always added in the same order.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation
from ssmrank.kernels.products import reference

__all__ = ["FastProducts", "FixedProducts"]

ROWS = 256
"""Rows of a library's call: all its calls for a weight have one shape."""

KEPT = 1 << 30
"""The most bytes of weights that are kept in a layout of our own. It takes a twentieth of a product's time to make, so
what is beyond is made at each call."""


class _Kept(NamedTuple):
    weight: Tensor
    """Kept too, so that no other tensor can get its address."""
    version: int | None
    panels: Tensor


class FixedProducts:
    """Products with the weights of one model, in which a row's bits depend on nothing but the row and the weight.

    The loops of a CPU read a weight in a layout of their own, which is made once for each weight, and again after it
    was changed in place.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], _Kept] = {}
        self._bytes = 0

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x weightᵀ + bias; not differentiable.

        Args:
            x: `[..., K]`.
            weight: `[N, K]` in x's dtype.
            bias: `[N]` or None.

        Returns:
            `[..., N]` in x's dtype, summed in float32 (float64 if x is).
        """
        rows = x.reshape(-1, x.shape[-1])
        y = self._product(rows, weight, bias) if len(rows) else rows.new_empty(0, len(weight))
        return y.view(*x.shape[:-1], len(weight))

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        implementation = dispatch.product(x)
        if implementation is Implementation.CPU:
            from ssmrank.kernels.products import cpu

            return cpu.product(x, self._panels_of(weight), len(weight), None if bias is None else bias.to(x.dtype))
        if implementation is Implementation.GPU:
            from ssmrank.kernels.products import gpu

            return gpu.product(x, weight, bias)
        y = reference.product(x, weight, ROWS)
        return y if bias is None else y + bias.to(y.dtype)

    def _panels_of(self, weight: Tensor) -> Tensor:
        from ssmrank.kernels.products import cpu

        if not self._keeps(weight):
            return cpu.panels_of(weight)
        place, version = _place(weight), None if weight.is_inference() else weight._version
        kept = self._kept.get(place)
        if kept is None or kept.version != version:
            self._bytes += 0 if kept is not None else weight.nbytes
            kept = self._kept[place] = _Kept(weight, version, cpu.panels_of(weight))
        return kept.panels

    def _keeps(self, weight: Tensor) -> bool:
        """Whether a weight's layout is kept, or will be: that of a parameter or of a part of one."""
        is_lasting = isinstance(weight, Parameter) or isinstance(weight._base, Parameter)
        return is_lasting and (_place(weight) in self._kept or self._bytes + weight.nbytes <= KEPT)


class FastProducts(FixedProducts):
    """Products by the loops where they are faster than the library's, else by the library.

    Where both serve, they add in the same order, so it does not matter for a score which of them computes it.
    """

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `FixedProducts.linear`."""
        if dispatch.loops_are_faster(x, weight) and (x.shape[:-1].numel() >= ROWS or self._keeps(weight)):
            return super().linear(x, weight, bias)
        return F.linear(x, weight, bias)


def _place(weight: Tensor) -> tuple[int, ...]:
    return (weight.data_ptr(), *weight.shape, *weight.stride())
