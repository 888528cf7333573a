"""Which learning rate a sweep chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping


def choose_rate(losses: Mapping[float, float | None]) -> float:
    """The learning rate of the lowest held-out loss, the lower rate of equals; None: the loss was not finite.

    Raises ValueError where no rate has a loss.
    """
    finite = {rate: loss for rate, loss in losses.items() if loss is not None and math.isfinite(loss)}
    if not finite:
        raise ValueError("no learning rate gave a finite loss")
    return min(finite, key=lambda rate: (finite[rate], rate))
