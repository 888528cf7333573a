"""What `make chaos` asks for, and what the short version in `make test` leaves out."""

from __future__ import annotations

import os
import random
import time

import pytest

pytest.register_assert_rewrite("chaos.same")


@pytest.fixture(scope="session")
def kills() -> int:
    """How many; 0 stands for the short version."""
    return int(os.environ.get("CHAOS_KILLS") or 0)


@pytest.fixture
def long(kills: int) -> None:
    """For a test that the short version leaves out."""
    if not kills:
        pytest.skip("not in the short version: make chaos")


@pytest.fixture
def chosen(capsys: pytest.CaptureFixture[str], kills: int) -> random.Random:
    """Random numbers whose seed is printed; the same each time in the short version."""
    seed = int(os.environ.get("CHAOS_SEED") or (time.time() if kills else 1))
    with capsys.disabled():
        print(f"\nchaos: SEED={seed}", flush=True)
    return random.Random(seed)
