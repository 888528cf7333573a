"""What weight decay applies to."""

from __future__ import annotations

from typing import Any

from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer: only matrices decay, not biases, norms and Mamba's A and D."""
    decayed = [p for n, p in model.named_parameters() if decays(n, p)]
    kept = {id(p) for p in decayed}
    others = [p for p in model.parameters() if id(p) not in kept]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to a parameter of this name."""
    return parameter.ndim >= 2 and not name.endswith("A_log")
