"""What turns a pooled state into a score: our linear layer, or the layers of other libraries' classifiers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ssmrank.errors import UserError


@dataclass(frozen=True)
class HeadSettings:
    """A hidden layer before the last one.

    activation: transformers' name of it; norm_eps: epsilon of the layer norm after it; None: no norm; width: that of
    the hidden layer; None: the states' own.
    """

    activation: str
    norm_eps: float | None = None
    width: int | None = None


class ClassifierHead(nn.Module):
    """A linear layer, an activation, if wanted a norm, and the linear layer that scores."""

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        inner = settings.width or width
        self.dense = nn.Linear(width, inner)
        self.activation = _activation(settings.activation)
        self.norm = nn.Identity() if settings.norm_eps is None else nn.LayerNorm(inner, eps=settings.norm_eps)
        self.out = nn.Linear(inner, 1)

    def forward(self, states: Tensor) -> Tensor:
        """Scores [S, 1] of pooled states [S, width]."""
        return self.out(self.norm(self.activation(self.dense(states))))


def new_head(width: int, settings: HeadSettings | None) -> nn.Linear | ClassifierHead:
    """A head whose last layer has small random weights; without settings it is that layer alone."""
    head = nn.Linear(width, 1) if settings is None else ClassifierHead(width, settings)
    last = head if isinstance(head, nn.Linear) else head.out
    nn.init.normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    return head


def _activation(name: str) -> nn.Module:
    from transformers.activations import ACT2FN

    if name not in ACT2FN:
        raise UserError(f"activation {name!r}: transformers has none of this name")
    return ACT2FN[name]
