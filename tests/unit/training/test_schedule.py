from __future__ import annotations

import pytest

from ssmrank.training.schedule import linear_warmup_decay


def test_schedule_by_hand():
    # 20 steps, 10% of them warm-up: half, full, then 18 equal steps down, the last at 1/18.
    shares = [linear_warmup_decay(step, 20, 0.1) for step in range(20)]
    assert shares[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert shares[-1] == pytest.approx(1 / 18)
    assert shares[2] - shares[3] == pytest.approx(1 / 18)


def test_without_warmup_it_starts_at_the_full_rate():
    assert linear_warmup_decay(0, 10, 0.0) == 1.0


def test_a_single_step_trains():
    assert linear_warmup_decay(0, 1, 0.1) == 1.0
