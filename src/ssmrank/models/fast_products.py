"""Linear layers without gradients by loops of our own, where these are faster than the library."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ssmrank.kernels.dispatch import library_is_slow
from ssmrank.kernels.products import FastProducts
from ssmrank.models.precision import Precision


def fast_products(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context for forward passes of one model without gradients, which can be entered again and again.

    States and scores have the same bits with it and without it.
    """
    serves = precision == "fp32" and device.type == "cpu" and library_is_slow()
    return _Mode(FastProducts()) if serves else nullcontext()


class _Mode(TorchFunctionMode):
    def __init__(self, products: FastProducts) -> None:
        super().__init__()
        self._products = products

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        own = self._products.linear if func is F.linear else func
        return own(*args, **(kwargs or {}))
