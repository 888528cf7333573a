"""Losses over groups: scores [groups, 1 + negatives], the relevant document first.

A new loss is one function and one entry in `LOSSES`; `trainings.NAME.loss` in params.yaml names it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

Loss = Callable[[torch.Tensor], torch.Tensor]


def cross_entropy(scores: torch.Tensor) -> torch.Tensor:
    """Eq. 7 of the paper: -log softmax of the relevant document's score, for each group; float32 [groups]."""
    return -F.log_softmax(scores.float(), dim=-1)[:, 0]


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy}
