from __future__ import annotations

import numpy as np
import pytest

from ssmrank.pretraining.objectives import MaskedTokens, cut, next_token
from ssmrank.pretraining.steps import Step, Steps

CLS, SEP, PAD, MASK = 1, 2, 0, 3


def some_texts(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [np.full(generator.integers(1, 20), 10 + number) for number in range(count)]


def test_a_step_is_whole_texts_and_padding() -> None:
    texts = [np.array([10, 11]), np.array([20]), np.array([30, 31, 32])]
    steps = Steps(texts, (CLS, SEP, PAD), 10, seed=0)
    [first, second] = (steps[number] for number in (0, 1))
    order = [int(steps.texts_of(n)[k]) for n in (0, 1) for k in range(len(steps.texts_of(n)))]
    for step, number in ((first, 0), (second, 1)):
        expected = [i for text in steps.texts_of(number) for i in (CLS, *texts[text].tolist(), SEP)]
        assert step.ids.tolist() == expected + [PAD] * (10 - len(expected))
        assert step.tokens == len(expected)
        assert step.lengths.sum() == 10
    assert sorted(order[:3]) == [0, 1, 2]  # a pass reads each text once


def test_any_step_can_be_had_without_those_before_it_and_passes_differ() -> None:
    texts = some_texts(50)
    one, other = (Steps(texts, (CLS, SEP, PAD), 64, seed=3) for _ in range(2))
    expected = [one[number] for number in range(40)]
    for number in (39, 7, 20):
        np.testing.assert_array_equal(other[number].ids, expected[number].ids)
    order = np.concatenate([one.texts_of(number) for number in range(40)])
    passes = order[:50], order[50:100]
    assert all(sorted(one_pass) == list(range(50)) for one_pass in passes)
    assert passes[0].tolist() != passes[1].tolist()
    assert Steps(texts, (CLS, SEP, PAD), 64, seed=4)[0].ids.tolist() != expected[0].ids.tolist()


def test_a_text_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="a text of 12 tokens does not fit into steps of 11"):
        Steps([np.arange(10)], (CLS, SEP, PAD), 11, seed=0)


def test_next_token_by_hand() -> None:
    step = Step(np.array([CLS, 10, 11, SEP, CLS, 20, SEP, PAD, PAD]), np.array([4, 3, 2]), 2)
    task = next_token(step, np.random.default_rng(0))
    assert task.places.tolist() == [0, 1, 2, 4, 5]
    assert task.targets.tolist() == [10, 11, SEP, 20, SEP]
    assert task.ids.tolist() == step.ids.tolist()


def test_masked_tokens_are_a_share_of_the_ordinary_ones() -> None:
    texts = some_texts(400)
    step = Steps(texts, (CLS, SEP, PAD), 4096, seed=0)[0]
    task = MaskedTokens(0.3, special=4, mask=MASK, vocabulary=500)(step, np.random.default_rng(0))
    ordinary = int((step.ids >= 4).sum())
    assert len(task.places) == round(0.3 * ordinary)
    np.testing.assert_array_equal(task.targets, step.ids[task.places])
    assert (task.targets >= 4).all()
    untouched = np.setdiff1d(np.arange(len(step.ids)), task.places)
    np.testing.assert_array_equal(task.ids[untouched], step.ids[untouched])
    read = task.ids[task.places]
    assert (read == MASK).mean() == pytest.approx(0.8, abs=0.05)
    assert (read == task.targets).mean() == pytest.approx(0.1, abs=0.04)
    assert ((read >= 4) & (read < 500))[read != MASK].all()


def test_pieces_of_a_step_are_the_step() -> None:
    step = Steps(some_texts(60), (CLS, SEP, PAD), 256, seed=0)[0]
    task = next_token(step, np.random.default_rng(0))
    pieces = cut(task, 48)
    assert len(pieces) > 4
    assert max(len(piece.ids) for piece in pieces) <= 48
    assert sum(len(piece.places) for piece in pieces) == len(task.places)
    np.testing.assert_array_equal(np.concatenate([piece.ids[piece.places] for piece in pieces]), task.ids[task.places])
    np.testing.assert_array_equal(np.concatenate([piece.targets for piece in pieces]), task.targets)
    assert cut(task, 256) == [task]
