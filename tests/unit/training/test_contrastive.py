"""InfoNCE, its masks and widths against a worked case and a computation in float64; groups that become columns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssmrank.training.contrastive import Columns, ContrastiveLoss, GroupIds, info_nce

CPU = torch.device("cpu")


def columns(groups, in_batch=True):
    queries = {id: row for row, id in enumerate(dict.fromkeys(group.query for group in groups))}
    documents = {id: row for row, id in enumerate(dict.fromkeys(d for group in groups for d in group.documents))}
    return Columns.of(groups, queries, documents, in_batch, CPU)


GROUPS = [
    GroupIds("q1", ("a", "n1"), frozenset({"a", "b", "elsewhere"})),
    GroupIds("q2", ("c", "n1"), frozenset({"c"})),
    GroupIds("q1", ("b", "n2"), frozenset({"a", "b", "elsewhere"})),
]


def test_documents_are_columns_once_and_relevant_ones_are_no_negatives():
    found = columns(GROUPS)
    assert found.queries.tolist() == [0, 1, 0]
    assert found.documents.tolist() == [[0, 1], [2, 1], [3, 4]]  # columns: a n1 c b n2
    assert found.allowed.int().tolist() == [[1, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]


def test_without_in_batch_a_group_has_its_own_documents_alone():
    found = columns(GROUPS, in_batch=False)
    assert found.allowed.int().tolist() == [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]


def test_the_worked_case():
    # exp of scores: 2, 1, 1 for the first row, of which the last is masked; 3, 1, 4 for the second.
    scores = torch.tensor([[2.0, 1.0, 1.0], [3.0, 1.0, 4.0]]).log()
    allowed = torch.tensor([[True, True, False], [True, True, True]])
    loss = info_nce(scores, torch.tensor([0, 2]), allowed)
    assert loss.tolist() == pytest.approx([math.log(3 / 2), math.log(8 / 4)])


def reference(queries, documents, found, widths, normalize, temperature, teacher=None, weight=1.0):
    """The loss of each group in float64, one number after another."""
    losses = []
    for row, own in enumerate(found.documents.tolist()):
        total = 0.0
        for width in widths:
            query, candidates = queries[found.queries[row]][:width], documents[:, :width]
            if normalize:
                query, candidates = query / np.linalg.norm(query), [c / np.linalg.norm(c) for c in candidates]
            scores = [float(np.dot(query, candidate)) / temperature for candidate in candidates]
            considered = [
                math.exp(s) for s, allowed in zip(scores, found.allowed[row].tolist(), strict=True) if allowed
            ]
            contrast = math.log(sum(considered)) - scores[own[0]]
            if teacher is None:
                total += contrast
                continue
            target = np.exp(teacher[row]) / np.exp(teacher[row]).sum()
            model = np.exp([scores[column] for column in own])
            total += float((target * np.log(target / (model / model.sum()))).sum()) + weight * contrast
        losses.append(total)
    return losses


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("distils", [True, False])
def test_the_loss_and_its_gradients_are_those_of_float64(normalize, distils):
    generator = np.random.default_rng(0)
    queries, documents = generator.normal(size=(2, 6)), generator.normal(size=(5, 6))
    taught = generator.normal(size=(3, 2)) if distils else None
    found, widths = columns(GROUPS), (6, 2)
    loss = ContrastiveLoss(widths, normalize, 0.3, contrastive_weight=0.7, distils=distils)
    tensors = [torch.tensor(array, requires_grad=True) for array in (queries, documents)]
    teacher = torch.tensor(taught) if taught is not None else None
    losses = loss(*tensors, found, teacher)
    given = (found, widths, normalize, 0.3, taught, 0.7)
    assert losses.tolist() == pytest.approx(reference(queries, documents, *given), rel=1e-5)
    gradients = torch.autograd.grad(losses.sum(), tensors)
    for array, gradient in zip((queries, documents), gradients, strict=True):
        for place in np.ndindex(array.shape):
            kept = array[place]
            sides = []
            for step in (1e-5, -1e-5):
                array[place] = kept + step
                sides.append(sum(reference(queries, documents, *given)))
            array[place] = kept
            assert gradient[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=2e-5)
