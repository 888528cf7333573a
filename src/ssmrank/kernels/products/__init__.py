"""Matrix products in which a row's bits depend on nothing but the row and the weight.

A library chooses its kernel by the number of rows, so the same row may get other last bits in another batch. Here a
row's sums are always added in the same order.
"""

from __future__ import annotations

from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation
from ssmrank.kernels.products import reference

__all__ = ["FixedProducts"]

ROWS = 256
"""Rows of a library's call: all its calls for a weight have one shape."""


class FixedProducts:
    """Products with the weights of one model, whose values must not change.

    The loops of a CPU read a weight in a layout of their own, which is made once for each weight.
    """

    def __init__(self) -> None:
        self._panels: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

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
        y = self._product(rows, weight) if len(rows) else rows.new_empty(0, len(weight))
        if bias is not None:
            y = y + bias.to(y.dtype)
        return y.view(*x.shape[:-1], len(weight))

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        implementation = dispatch.product(x)
        if implementation is Implementation.GPU:
            from ssmrank.kernels.products import gpu

            return gpu.product(x, weight)
        if implementation is Implementation.CPU:
            from ssmrank.kernels.products import cpu

            return cpu.product(x, self._panels_of(weight), len(weight))
        return reference.product(x, weight, ROWS)

    def _panels_of(self, weight: Tensor) -> Tensor:
        from ssmrank.kernels.products import cpu

        place = (weight.data_ptr(), *weight.shape, *weight.stride())
        if place not in self._panels:
            # The weight is kept too, so that no other tensor can get its address.
            self._panels[place] = weight, cpu.panels_of(weight)
        return self._panels[place][1]
