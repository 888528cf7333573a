"""Which keys each query of a packed batch sees, as ranges of the batch's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 64
"""The most queries that are computed at once."""


@dataclass(frozen=True, eq=False)
class KeyRanges:
    """Blocks of neighbouring queries that see the same ranges of keys.

    blocks: int64 [B, 4]: first query, end of queries, first range and number of ranges; ranges: int64 [R, 2]: first key
    and end of keys, in the order of their sequence; most_keys: of a block.
    """

    blocks: np.ndarray
    ranges: np.ndarray
    most_keys: int


def key_ranges(queries: Sequence[tuple[int, int]], keys: Sequence[Sequence[tuple[int, int]]]) -> KeyRanges:
    """The blocks of queries `(first, end)`, each of which sees the ranges of keys at its place in `keys`."""
    blocks: list[tuple[int, int, int, int]] = []
    ranges: list[tuple[int, int]] = []
    most = 0
    for (first, end), seen in zip(queries, keys, strict=True):
        blocks += [(at, min(at + BLOCK, end), len(ranges), len(seen)) for at in range(first, end, BLOCK)]
        ranges += seen
        most = max(most, sum(last - start for start, last in seen))
    return KeyRanges(
        np.array(blocks, dtype=np.int64).reshape(-1, 4), np.array(ranges, dtype=np.int64).reshape(-1, 2), most
    )
