"""Options of `make chaos`, and what the short version in `make test` leaves out."""

from __future__ import annotations

import os
import random
import time

import pytest

pytest.register_assert_rewrite("chaos.same")


@pytest.fixture(scope="session")
def kills() -> int:
    """The number of kills; 0 means the short version."""
    return int(os.environ.get("CHAOS_KILLS") or 0)


@pytest.fixture
def long(kills: int) -> None:
    """Skips a test in the short version."""
    if not kills:
        pytest.skip("not in the short version: make chaos")


@pytest.fixture
def chosen(capsys: pytest.CaptureFixture[str], kills: int) -> random.Random:
    """A random generator whose seed is printed; the short version always uses the same seed."""
    seed = int(os.environ.get("CHAOS_SEED") or (time.time() if kills else 1))
    with capsys.disabled():
        print(f"\nchaos: SEED={seed}", flush=True)
    return random.Random(seed)
