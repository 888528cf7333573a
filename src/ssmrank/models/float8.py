"""Projections of a trained backbone in 8-bit floats, for reranking.

Each output channel of a weight has a scale, and so does each token of the input, whose scale is computed on the fly.
Mamba's norms return their rows already rounded, so that rounding costs no extra pass over memory.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ssmrank.kernels.float8 import MULTIPLE, Rows, product, quantized
from ssmrank.models.architecture import Architecture


class Float8Linear(nn.Module):
    """A linear layer for inference with a weight of 8-bit floats.

    values: float8_e4m3fn [outputs, inputs], its outputs padded with zeros to a multiple of 16; scales: float32
    [outputs, 1].
    """

    values: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        added = -linear.out_features % MULTIPLE
        weight = quantized(F.pad(linear.weight.detach(), (0, 0, 0, added)))
        self.register_buffer("values", weight.values)
        self.register_buffer("scales", weight.scales)
        bias = None if linear.bias is None else F.pad(linear.bias.detach(), (0, added)).bfloat16()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor | Rows) -> Tensor:
        """From [..., inputs], or from rows that are already rounded, to bfloat16 [..., outputs]."""
        rows = x if isinstance(x, Rows) else quantized(x.reshape(-1, self.in_features))
        y = product(rows, Rows(self.values, self.scales), self.bias)[:, : self.out_features]
        return y if isinstance(x, Rows) else y.reshape(*x.shape[:-1], self.out_features)


def to_float8(backbone: Any, architecture: Architecture) -> None:
    """Replaces the backbone's linear layers with `Float8Linear`, in place.

    Layers whose number of inputs is no multiple of 16 stay as they are, and so do those that the architecture excludes.
    """
    spared = set[nn.Module]() if architecture.last_layer_float8 else set(backbone.layers[-1].modules())
    for module in list(backbone.modules()):
        if module in spared:
            continue
        for name, child in list(module.named_children()):
            fits = type(child) is nn.Linear and child.in_features % MULTIPLE == 0
            if fits and name not in architecture.not_float8:
                setattr(module, name, Float8Linear(child))
