"""Paired tests of the difference between two systems on the same queries.

A column of a table may be the mean over several collections, which count equally. Its queries are those of all
collections, and a query weighs 1 / (collections x queries of its collection). With one collection, these are the usual
mean and the usual tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

Values = NDArray[np.float64]

_BLOCK = 1 << 23
"""Signs in memory at a time."""


def randomization_test(differences: Sequence[Values], permutations: int, seed: int) -> Values:
    """Two-sided p values of Fisher's paired randomization test (Smucker, Allan and Carterette, CIKM 2007).

    Under the null hypothesis, each query's difference has either sign with the same probability. Where there are at
    most `permutations` ways to set the signs, all are tried and p is exact. Otherwise `permutations` are drawn, and p
    is (b + 1) / (permutations + 1), where b means are at least as far from 0 as the observed one (Phipson and Smyth
    2010); it is never 0.

    Args:
        differences: for each collection an array [comparisons, queries]; all comparisons use the same signs.
        permutations: how many are drawn.
        seed: seed of the random numbers.

    Returns:
        p of each comparison, [comparisons].
    """
    weighted = _weighted(differences)
    queries = weighted.shape[1]
    observed = np.abs(weighted.sum(axis=1))
    # Sums of the same numbers in another order differ by rounding errors, and must count as equal.
    least = observed - 1e-12 * np.abs(weighted).sum(axis=1)
    exact = queries < 63 and 1 << queries <= permutations
    total = 1 << queries if exact else permutations
    random = np.random.default_rng(seed)
    further = np.zeros(len(weighted), dtype=np.int64)
    block = max(1, _BLOCK // queries)
    for first in range(0, total, block):
        count = min(block, total - first)
        if exact:
            numbers = np.arange(first, first + count, dtype=np.uint64)[:, None]
            signs = (numbers >> np.arange(queries, dtype=np.uint64)) & np.uint64(1)
        else:
            bits = random.integers(0, 256, size=(count, (queries + 7) // 8), dtype=np.uint8)
            signs = np.unpackbits(bits, axis=1, count=queries)
        means = 2 * (signs.astype(np.float64) @ weighted.T) - weighted.sum(axis=1)
        further += (np.abs(means) >= least).sum(axis=0)
    return further / total if exact else (further + 1) / (total + 1)


def t_test(differences: Sequence[Values]) -> Values:
    """Two-sided p values of Student's paired t-test.

    Over several collections, t is the mean of the collections' means divided by its standard error, with the
    Welch-Satterthwaite degrees of freedom. A collection of one query has no variance estimate, so p is 1.

    Args:
        differences: for each collection an array [comparisons, queries].

    Returns:
        p of each comparison, [comparisons].
    """
    if any(block.shape[1] < 2 for block in differences):
        return np.ones(len(differences[0]))
    means = np.mean([block.mean(axis=1) for block in differences], axis=0)
    parts = [block.var(axis=1, ddof=1) / (block.shape[1] * len(differences) ** 2) for block in differences]
    variance = np.sum(parts, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = variance**2 / np.sum(
            [part**2 / (block.shape[1] - 1) for part, block in zip(parts, differences, strict=True)], axis=0
        )
        p = 2 * stdtr(freedom, -np.abs(means) / np.sqrt(variance))
    # Without variance t is infinite, or 0 / 0 where all differences are 0: p is 0 or 1.
    return np.where(variance > 0, p, np.where(means == 0, 1.0, 0.0))


def holm(p: Values) -> Values:
    """Adjusts the p values of a family, [comparisons], so that each may be compared with the level (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def mean_difference(differences: Sequence[Values]) -> Values:
    """The mean over collections of each collection's mean difference, [comparisons]."""
    return _weighted(differences).sum(axis=1)


def _weighted(differences: Sequence[Values]) -> Values:
    """Differences weighted so that their sum is the mean, [comparisons, queries of all collections]."""
    return np.concatenate([block / (block.shape[1] * len(differences)) for block in differences], axis=1)
