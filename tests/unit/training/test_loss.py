from __future__ import annotations

import math

import pytest
import torch

from ssmrank.training.loss import LOSSES, cross_entropy


def test_cross_entropy_by_hand():
    # Eq. 7: -log(e^2 / (e^2 + e^1 + e^0)) and, with equal scores, log 3.
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.5, 0.5, 0.5]])
    expected = [-math.log(math.exp(2) / (math.exp(2) + math.exp(1) + 1)), math.log(3)]
    assert cross_entropy(scores).tolist() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_survives_large_scores():
    assert cross_entropy(torch.tensor([[1e4, -1e4], [-1e4, 1e4]])).tolist() == pytest.approx([0.0, 2e4])


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_score_of_the_relevant_document_lowers_the_loss(name):
    scores = torch.tensor([[0.3, 0.1, -0.4]], requires_grad=True)
    LOSSES[name](scores).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 0] < 0
    assert (scores.grad[0, 1:] > 0).all()
