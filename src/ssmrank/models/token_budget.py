"""Batches within a token budget.

Sequences are sorted by length, longest first. So a batch that does not fit into memory fails at once, and the sequences
of a batch have similar lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def budget_batches(
    lengths: Sequence[int] | np.ndarray, token_budget: int, costs: Sequence[int] | np.ndarray | None = None
) -> list[np.ndarray]:
    """Batches of indices into `lengths`, int64, of at most `token_budget` tokens each; a longer sequence is alone.

    costs: the tokens that each sequence counts as, if not its length.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    weights = np.asarray(lengths if costs is None else costs)[order].tolist()
    batches: list[np.ndarray] = []
    start, tokens = 0, 0
    for place, weight in enumerate(weights):
        if place > start and tokens + weight > token_budget:
            batches.append(order[start:place])
            start, tokens = place, 0
        tokens += weight
    if start < len(order):
        batches.append(order[start:])
    return batches
