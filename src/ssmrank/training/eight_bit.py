"""AdamW with moments of 8 bits (Dettmers et al. 2022), by bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch

from ssmrank.training.extras import import_quietly


def eight_bit_adamw(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer; moments of fewer than 4,096 weights stay in float32."""
    return import_quietly("bitsandbytes").optim.AdamW8bit(groups, lr=learning_rate)
