from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssmrank.training.loss import LOSSES, cross_entropy, kl_divergence, lambda_loss, margin_mse, ranknet

GENERATOR = np.random.default_rng(3)
SCORES = GENERATOR.normal(size=(6, 8))
TEACHER = GENERATOR.normal(size=(6, 8), scale=4.0)


def close(loss, expected):
    return loss.tolist() == pytest.approx(list(expected), rel=2e-6)


def test_cross_entropy_by_hand():
    # Eq. 7: -log(e^2 / (e^2 + e^1 + e^0)) and, with equal scores, log 3.
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.5, 0.5, 0.5]])
    expected = [-math.log(math.exp(2) / (math.exp(2) + math.exp(1) + 1)), math.log(3)]
    assert cross_entropy(scores).tolist() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_survives_large_scores():
    assert cross_entropy(torch.tensor([[1e4, -1e4], [-1e4, 1e4]])).tolist() == pytest.approx([0.0, 2e4])


def test_ranknet_by_hand_and_in_float64():
    # Margins 1 and -1: (log(1 + e^-1) + log(1 + e)) / 2.
    by_hand = (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    assert ranknet(torch.tensor([[1.0, 0.0, 2.0]])).item() == pytest.approx(by_hand, rel=1e-6)
    expected = [np.mean([-math.log(1 / (1 + math.exp(s - row[0]))) for s in row[1:]]) for row in SCORES]
    assert close(ranknet(torch.from_numpy(SCORES)), expected)


def test_lambda_loss_by_hand():
    # The relevant document is at rank 2, and the negatives are at 1 and 3, so both distances are 1.
    delta = 1 / math.log2(2) - 1 / math.log2(3)
    above, below = abs(1 / math.log2(3) - 1 / math.log2(2)), abs(1 / math.log2(3) - 1 / math.log2(4))
    by_hand = (above + 10 * delta) * math.log2(1 + math.e) + (below + 10 * delta) * math.log2(1 + math.exp(-1))
    assert lambda_loss(torch.tensor([[1.0, 2.0, 0.0]])).item() == pytest.approx(by_hand, rel=1e-6)


def test_lambda_loss_in_float64():
    def of(row):
        ranks = {place: rank for rank, place in enumerate(sorted(range(len(row)), key=lambda i: -row[i]), start=1)}
        total = 0.0
        for j in range(1, len(row)):
            rho = abs(1 / math.log2(1 + ranks[0]) - 1 / math.log2(1 + ranks[j]))
            distance = abs(ranks[0] - ranks[j])
            delta = abs(1 / math.log2(1 + distance) - 1 / math.log2(2 + distance))
            total -= (rho + 10 * delta) * math.log2(1 / (1 + math.exp(-(row[0] - row[j]))))
        return total

    assert close(lambda_loss(torch.from_numpy(SCORES)), [of(row) for row in SCORES])


def test_margin_mse_by_hand_and_in_float64():
    # Margins 1 and 2 against 3 and 1: (4 + 1) / 2.
    assert margin_mse(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[5.0, 2.0, 4.0]])).item() == pytest.approx(2.5)
    student, teacher = SCORES[:, :1] - SCORES[:, 1:], TEACHER[:, :1] - TEACHER[:, 1:]
    expected = ((student - teacher) ** 2).mean(axis=1)
    assert close(margin_mse(torch.from_numpy(SCORES), torch.from_numpy(TEACHER)), expected)


def test_kl_divergence_by_hand_and_in_float64():
    # The teacher's distribution is 3/4 and 1/4, the model's is 1/2 and 1/2.
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert kl_divergence(torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])).item() == pytest.approx(by_hand)
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (TEACHER, SCORES))
    assert close(kl_divergence(torch.from_numpy(SCORES), torch.from_numpy(TEACHER)), (p * np.log(p / q)).sum(axis=1))


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_score_of_the_relevant_document_lowers_the_loss(name):
    scores = torch.tensor([[0.3, 0.1, -0.4]], requires_grad=True)
    teacher = torch.tensor([[3.0, -1.0, -2.0]])
    LOSSES[name](scores, teacher).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 0] < 0
    assert (scores.grad[0, 1:] > 0).all()


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.distils])
def test_a_model_that_scores_as_its_teacher_has_no_loss(name):
    # Neither loss depends on a constant that is added to all scores of a group.
    teacher = torch.tensor([[3.0, -1.0, -2.0]])
    assert LOSSES[name](teacher + 7.0, teacher).item() == pytest.approx(0.0, abs=1e-6)
