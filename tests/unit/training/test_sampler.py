from __future__ import annotations

import numpy as np

from ssmrank.training.sampler import micro_batches, step_indices


def test_each_pass_visits_every_group_once():
    steps = list(step_indices(groups=10, batch_groups=4, seed=1, first_step=0, total_steps=5))
    visited = [index for step in steps for index in step]
    assert sorted(visited[:10]) == sorted(visited[10:]) == list(range(10))
    assert visited[:10] != visited[10:]


def test_steps_can_be_had_from_the_middle():
    whole = list(step_indices(10, 4, 1, 0, 9))
    assert list(step_indices(10, 4, 1, 6, 9)) == whole[6:]


def test_micro_batches_by_hand():
    assert micro_batches([30, 30, 50, 200, 10], 100) == [[0, 1], [2], [3], [4]]


def test_length_grouped_steps_are_even_and_visit_every_group_once():
    lengths = np.random.default_rng(0).integers(50, 500, size=64)
    plain = list(step_indices(64, 8, 1, 0, 16))
    grouped = list(step_indices(64, 8, 1, 0, 16, lengths))
    for half in (grouped[:8], grouped[8:]):
        assert sorted(index for step in half for index in step) == list(range(64))
    spread = [np.mean([np.ptp(lengths[step]) for step in steps]) for steps in (grouped, plain)]
    assert spread[0] < 0.25 * spread[1]
    # Steps are not sorted by length, and the order differs between passes.
    means = [lengths[step].mean() for step in grouped[:8]]
    assert means != sorted(means)
    assert grouped[:8] != grouped[8:]


def test_length_grouped_steps_can_be_had_from_the_middle():
    lengths = list(range(10, 40))
    whole = list(step_indices(30, 4, 1, 0, 20, lengths))
    assert list(step_indices(30, 4, 1, 11, 20, lengths)) == whole[11:]
