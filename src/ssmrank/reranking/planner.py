"""Which pairs of a run are scored together.

Pairs are sorted by length and laid into batches of a token budget, longest first, so that a batch that does not fit
into memory shows at once and the sequences of a batch are of about equal length. Those of a large run are planned in
parts, each of other documents: the first part is soon planned, the others are while the device scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssmrank.io.pairs import Pairs

FIRST_PART = 2**19
"""Bytes of text of a run's first part: they are tokenized and planned in a twentieth of a second."""

GROWTH = 3
"""How many times the bytes of a part the next one has: scoring a part takes longer than planning as much again."""


def parts_of(pairs: Pairs, sizes: np.ndarray) -> list[np.ndarray]:
    """The places of the pairs of each part, int64; sizes: int64, bytes of each document.

    The documents of the first part are the longest. What would not fill another part is the last one's; few bytes are
    one part.
    """
    order = np.argsort(-sizes, kind="stable")
    ends = np.cumsum(sizes[order])
    bounds, done, size = [], 0, FIRST_PART
    while ends[-1:].sum() - done >= 2 * size:
        done = int(ends[np.searchsorted(ends, done + size)])
        bounds.append(done)
        size *= GROWTH
    part = np.empty(len(order), dtype=np.int64)
    part[order] = np.searchsorted(bounds, ends - sizes[order], side="right")
    parts = part[pairs.document]
    return [np.flatnonzero(parts == number) for number in range(len(bounds) + 1)]


def plan(
    lengths: Sequence[int] | np.ndarray, token_budget: int, costs: Sequence[int] | np.ndarray | None = None
) -> list[np.ndarray]:
    """Batches of indices into `lengths` with at most `token_budget` tokens each; a longer sequence stands alone.

    costs: tokens of each, where they are not its length but of what is laid into a batch as one.
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
