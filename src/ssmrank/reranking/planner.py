"""The parts of a run. A large run is planned part by part, each with different documents.

The first part is small, so it is planned while the model is moved. The others are planned while the device scores.
"""

from __future__ import annotations

import numpy as np

from ssmrank.io.pairs import Pairs

FIRST_PART = 2**19
"""Bytes of text in a run's first part, which take a twentieth of a second to tokenize and plan."""

GROWTH = 3
"""How many times larger each next part is. Scoring a part still takes longer than planning the next one."""


def parts_of(pairs: Pairs, sizes: np.ndarray) -> list[np.ndarray]:
    """The indices of each part's pairs, int64; sizes: int64, bytes of each document.

    The first part has the longest documents. A remainder that would not fill another part belongs to the last part, and
    a small run is one part.
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
