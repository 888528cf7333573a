"""Scores that do not depend on the batch: a mode in which each row of a model's tensors is computed by itself.

Within the mode, products and the activations of transformers' modules are replaced by functions that compute a row with
the same instructions wherever it is, and `kernels.dispatch` chooses scans and attention that look at nothing but a
sequence's own tokens. What is left (norms, sums, exponentials, the convolution) has this property already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ssmrank.errors import UserError
from ssmrank.kernels.activations import gelu, silu
from ssmrank.kernels.dispatch import batch_invariant
from ssmrank.kernels.products import FixedProducts
from ssmrank.models.architecture import Architecture
from ssmrank.models.precision import Precision


class BatchInvariance:
    """Makes the forward passes of one model independent of the batch; its weights must not change any more."""

    def __init__(self) -> None:
        self._mode = _Mode(FixedProducts())

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """A context for forward passes without gradients."""
        with batch_invariant(), self._mode:
            yield


def check_batch_invariance(architecture: Architecture, precision: Precision, device: torch.device) -> None:
    """Raises UserError where scores that do not depend on the batch cannot be promised."""
    if precision == "fp8":
        raise UserError("deterministic batch: products of 8-bit floats depend on the batch; set precision bf16 or fp32")
    if device.type == "cuda" and precision == "fp32" and architecture.attention:
        raise UserError(
            f"deterministic batch: attention of {architecture.model_type} in fp32 on a GPU depends on the batch; set "
            "precision bf16"
        )


class _Mode(TorchFunctionMode):
    def __init__(self, products: FixedProducts) -> None:
        super().__init__()
        self._products = products
        self._own: dict[Any, Callable[..., Tensor]] = {
            F.linear: self._linear,
            torch.matmul: self._matmul,
            Tensor.matmul: self._matmul,
            Tensor.__matmul__: self._matmul,
            F.silu: _silu,
            torch._C._nn.silu: _silu,
            F.sigmoid: _sigmoid,
            torch.sigmoid: _sigmoid,
            Tensor.sigmoid: _sigmoid,
            F.softplus: _softplus,
            F.gelu: _gelu,
        }

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self._own.get(func, func)(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        device = input.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            input, weight = input.to(dtype), weight.to(dtype)
        return self._products.linear(input, weight, bias)

    def _matmul(self, input: Tensor, other: Tensor) -> Tensor:
        if input.ndim == 2 and other.ndim == 2:
            return self._linear(input, other.T)
        return torch.matmul(input, other)


# torch computes the values at the end of a tensor, or of a thread's share, one by one, and by another function than
# whole vectors. Its exp, log1p, erf and tanh are the same function everywhere, and so are sums, products and quotients.


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _silu(input: Tensor, inplace: bool = False) -> Tensor:
    return silu(input)


def _sigmoid(input: Tensor) -> Tensor:
    wide = _wide(input)
    return torch.exp(-wide).add_(1.0).reciprocal_().to(input.dtype)


def _softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    scaled = _wide(input) * beta
    small = torch.log1p(torch.exp(scaled.clamp(max=threshold))) / beta
    return torch.where(scaled > threshold, _wide(input), small).to(input.dtype)


def _gelu(input: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "none":
        return gelu(input)
    wide = _wide(input)
    share = torch.tanh((2.0 / math.pi) ** 0.5 * (wide + 0.044715 * (wide * wide * wide)))
    return share.add_(1.0).mul_(wide).mul_(0.5).to(input.dtype)
