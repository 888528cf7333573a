from __future__ import annotations

import numpy as np

from ssmrank.models.token_budget import budget_batches


def test_batches_by_hand():
    batches = budget_batches([5, 9, 2, 4, 30, 2], 12)
    assert [batch.tolist() for batch in batches] == [[4], [1], [0, 3, 2], [5]]


def test_every_pair_is_planned_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 200, 500).tolist()
    batches = budget_batches(lengths, 700)
    assert sorted(index for batch in batches for index in batch) == list(range(500))
    assert all(sum(lengths[index] for index in batch) <= 700 for batch in batches)
    assert budget_batches([], 10) == []
