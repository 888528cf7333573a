"""Normalises the scores of one query's documents, so that scores of different systems can be added."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ScoreArray = NDArray[np.float64]


def z_scores(scores: ScoreArray) -> ScoreArray:
    """Z-scores of finite scores, float64 [n], with the population standard deviation.

    Zeros where all scores are equal, since then they carry no information; a single score becomes 0 as well.
    """
    return standardised(scores, scores)


def standardised(scores: ScoreArray, pool: ScoreArray) -> ScoreArray:
    """Z-scores, float64 [n], with the mean and the population deviation of a pool, float64 [m].

    Zeros where the pool is constant.
    """
    if is_constant(pool):
        return np.zeros_like(scores)
    return (scores - pool.mean()) / pool.std()


def min_max(scores: ScoreArray) -> ScoreArray:
    """Scales scores, float64 [n], so that the lowest is 0 and the highest 1; zeros where all are equal."""
    if is_constant(scores):
        return np.zeros_like(scores)
    return (scores - scores.min()) / (scores.max() - scores.min())


def is_constant(scores: ScoreArray) -> bool:
    """Whether all scores are equal; true for no score and for one."""
    return bool((scores == scores[:1]).all())
