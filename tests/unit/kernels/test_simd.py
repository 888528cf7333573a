from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from ssmrank.kernels.simd import vectors as simd
from ssmrank.kernels.simd.vectors import lane_sum, load, store


@njit
def apply(kind: int, source: int, target: int, count: int) -> None:
    for index in range(0, count, 16):
        x = load(source + 4 * index)
        if kind == 0:
            x = simd.exp2(x)
        elif kind == 1:
            x = simd.softplus(x)
        else:
            x = simd.sigmoid(x)
        store(target + 4 * index, x)


@njit
def add_lanes(source: int) -> float:
    return lane_sum(load(source))


def run(kind: int, x: np.ndarray) -> np.ndarray:
    x = np.resize(x, -(-len(x) // 16) * 16).astype(np.float32)
    y = np.full_like(x, np.nan)
    apply(kind, x.ctypes.data, y.ctypes.data, len(x))
    return y


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected", "tolerance"),
    [
        (0, -126, 60, np.exp2, 1.2e-7),
        (1, -80, 60, lambda x: np.logaddexp(0, x), 3e-7),
        (2, -80, 60, lambda x: 1 / (1 + np.exp(-x)), 3e-7),
    ],
)
def test_relative_errors(kind: int, low: float, high: float, expected: object, tolerance: float) -> None:
    x = np.random.default_rng(0).uniform(low, high, 1 << 16).astype(np.float32)
    exact = expected(x.astype(np.float64))  # type: ignore[operator]
    assert np.max(np.abs(run(kind, x) - exact) / exact) < tolerance


def test_ends() -> None:
    x = np.array([0, 1, -1000, -np.inf, np.nan, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert run(0, x)[:5].tolist()[:4] == [1.0, 2.0, 2.0**-126, 2.0**-126]
    assert np.isnan(run(0, x)[4])
    assert np.isnan(run(1, x)[4])
    assert np.isnan(run(2, x)[4])
    assert run(1, np.array([500.0]))[0] == 500.0
    assert run(2, np.array([-500.0]))[0] < 1e-37
    assert run(2, np.array([500.0]))[0] == 1.0


def test_lane_sum() -> None:
    x = np.arange(16, dtype=np.float32)
    assert add_lanes(x.ctypes.data) == 120.0
