"""Which learning rate a sweep chooses, and has chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from ssmrank.errors import UserError


def choose_rate(losses: Mapping[float, float | None]) -> float:
    """The learning rate of the lowest held-out loss, the lower rate of equals; None: the loss was not finite.

    Raises ValueError where no rate has a loss.
    """
    finite = {rate: loss for rate, loss in losses.items() if loss is not None and math.isfinite(loss)}
    if not finite:
        raise ValueError("no learning rate gave a finite loss")
    return min(finite, key=lambda rate: (finite[rate], rate))


def chosen_rate(path: Path) -> float:
    """The learning rate that a file of `ssmrank pretrain sweep` chose."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["learning_rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no file of `ssmrank pretrain sweep` ({error})") from error
