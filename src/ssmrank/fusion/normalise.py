"""Scores of one query's documents on a common scale, so that those of different systems can be added."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ScoreArray = NDArray[np.float64]


def z_scores(scores: ScoreArray) -> ScoreArray:
    """The scores, float64 [n], less their mean and over their population standard deviation.

    Equal scores tell nothing and become zeros; so does a single one. Scores are finite.
    """
    return standardised(scores, scores)


def standardised(scores: ScoreArray, pool: ScoreArray) -> ScoreArray:
    """Scores, float64 [n], less the mean of a pool, float64 [m], over its deviation; zeros if the pool is constant."""
    if is_constant(pool):
        return np.zeros_like(scores)
    return (scores - pool.mean()) / pool.std()


def min_max(scores: ScoreArray) -> ScoreArray:
    """The scores, float64 [n], from 0 for the lowest to 1 for the highest; zeros where all are equal."""
    if is_constant(scores):
        return np.zeros_like(scores)
    return (scores - scores.min()) / (scores.max() - scores.min())


def is_constant(scores: ScoreArray) -> bool:
    """Whether all scores are the same; true of none and of one."""
    return bool((scores == scores[:1]).all())
