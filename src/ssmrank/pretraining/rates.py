"""The choice of a learning rate by a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from ssmrank.errors import UserError


def choose_rate(losses: Mapping[float, float | None]) -> float:
    """The learning rate with the lowest held-out loss, the lower one of ties; a loss of None was not finite.

    Raises ValueError where no rate has a finite loss.
    """
    finite = {rate: loss for rate, loss in losses.items() if loss is not None and math.isfinite(loss)}
    if not finite:
        raise ValueError("no learning rate gave a finite loss")
    return min(finite, key=lambda rate: (finite[rate], rate))


def chosen_rate(path: Path) -> float:
    """Reads the learning rate that `ssmrank pretrain sweep` chose. Raises UserError where it is not such a file."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["learning_rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: was not written by `ssmrank pretrain sweep` ({error})") from error
