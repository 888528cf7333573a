"""Normalisations against numbers worked by hand and against ranx's."""

from __future__ import annotations

import numpy as np
import pytest

from ssmrank.fusion.normalise import min_max, z_scores


def test_z_scores_have_the_population_standard_deviation():
    # Mean 5, squared distances 9 1 1 1 0 0 4 16: variance 4.
    scores = np.array([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert z_scores(scores).tolist() == [-1.5, -0.5, -0.5, -0.5, 0.0, 0.0, 1.0, 2.0]


def test_min_max_goes_from_0_to_1():
    assert min_max(np.array([3.0, -1.0, 1.0])).tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("normalise", [z_scores, min_max])
@pytest.mark.parametrize("scores", [[], [7.0], [0.1, 0.1, 0.1]])
def test_equal_scores_become_zeros(normalise, scores):
    # The mean of three 0.1 is not 0.1 in floating point; the standard deviation is then not 0 either.
    assert normalise(np.array(scores, dtype=np.float64)).tolist() == [0.0] * len(scores)


@pytest.mark.parametrize("normalise", [z_scores, min_max])
def test_only_differences_count(normalise):
    scores = np.array([0.25, -3.0, 8.5, 1.0])
    np.testing.assert_allclose(normalise(4 * scores - 100), normalise(scores), rtol=1e-13)
