"""The learning rate over the steps."""

from __future__ import annotations

import math


def linear_warmup_decay(step: int, total_steps: int, warmup_ratio: float) -> float:
    """The share of the learning rate at a step (from 0): it rises linearly to 1 in the warm-up, then falls to 0.

    The warm-up takes `warmup_ratio` of the steps, rounded up. Its first step already has a share above 0.
    """
    warmup = math.ceil(total_steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return (total_steps - step) / max(1, total_steps - warmup)
