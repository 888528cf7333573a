"""Learning rate over the steps."""

from __future__ import annotations

import math


def linear_warmup_decay(step: int, total_steps: int, warmup_ratio: float) -> float:
    """Share of the learning rate at a step (from 0): up to 1 over the warm-up's steps, then down to 0, both linear.

    The warm-up is `warmup_ratio` of the steps, rounded up; step 0 already has the first share above 0.
    """
    warmup = math.ceil(total_steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return (total_steps - step) / max(1, total_steps - warmup)
