"""The parts of a run: a large run is planned part by part, each with other documents.

The first part is small and soon planned; the others are planned while the device scores.
"""

from __future__ import annotations

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
