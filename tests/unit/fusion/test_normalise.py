"""Normalisations, compared with numbers worked out by hand and with ranx's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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
    # In floating point, the mean of three 0.1 is not 0.1, so the standard deviation is not 0 either.
    assert normalise(np.array(scores, dtype=np.float64)).tolist() == [0.0] * len(scores)


@pytest.mark.parametrize("normalise", [z_scores, min_max])
def test_only_differences_count(normalise):
    scores = np.array([0.25, -3.0, 8.5, 1.0])
    np.testing.assert_allclose(normalise(4 * scores - 100), normalise(scores), rtol=1e-13)


RANX = """
import importlib, importlib.util, json, sys, types
sys.modules["ranx"] = importlib.util.module_from_spec(importlib.util.find_spec("ranx"))
sys.modules["ranx.data_structures"] = types.SimpleNamespace(Run=dict)
results = json.loads(sys.argv[1])
zmuv = importlib.import_module("ranx.normalization.zmuv_norm")._zmuv_norm(results)
min_max = importlib.import_module("ranx.normalization.min_max_norm")._min_max_norm(results, False)
print(json.dumps([list(zmuv.values()), list(min_max.values())]))
"""
"""ranx's own functions without its compiler, which takes a minute, and without the rest of ranx."""


def test_ranx_normalises_alike() -> None:
    scores = np.array([12.5, 9.25, 9.0, 3.5, -2.0])
    results = json.dumps({f"d{number}": score for number, score in enumerate(scores.tolist())})
    without_compiler = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    answer = subprocess.run([sys.executable, "-c", RANX, results], env=without_compiler, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    zmuv, unit = json.loads(answer.stdout)
    np.testing.assert_allclose(z_scores(scores), zmuv, rtol=1e-13)
    np.testing.assert_allclose(min_max(scores), unit, rtol=1e-13)
