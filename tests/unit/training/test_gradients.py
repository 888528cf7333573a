from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_training import GROUPS, sequences

from ssmrank.models.packing import pack
from ssmrank.models.reranker import new_reranker
from ssmrank.training.gradients import Accumulator, OutOfMemory
from ssmrank.training.loss import LOSSES
from ssmrank.training.memory import recomputed_layers
from ssmrank.training.parallel import Workers

CPU = torch.device("cpu")


def gradients(reranker, token_budget, loss_name="cross_entropy", groups=GROUPS, may_recompute=False):
    data = sequences(reranker, groups)
    accumulator = Accumulator(reranker, LOSSES[loss_name], "fp32", CPU, token_budget, Workers(), may_recompute)
    indices = list(range(len(groups)))
    loss = accumulator([data[index] for index in indices], len(groups), data.teacher(indices))
    found = {name: parameter.grad for name, parameter in reranker.named_parameters()}
    reranker.zero_grad(set_to_none=True)
    return loss.item(), accumulator.budget, found


def assert_same_gradients(one, other):
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert (gradient - other[name]).abs().max() <= 1e-6 + 1e-5 * gradient.abs().max(), name


@pytest.mark.parametrize("token_budget", [1, 40, 80])
def test_micro_batches_do_not_change_the_gradients(tiny_model, token_budget):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model("llama"), "D", 32)
    loss, _, whole = gradients(reranker, 1000)
    cut_loss, _, cut = gradients(reranker, token_budget)
    assert cut_loss == pytest.approx(loss, abs=1e-6)
    assert_same_gradients(whole, cut)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_gradients(tiny_model, monkeypatch):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model("llama"), "D", 32)
    loss, _, whole = gradients(reranker, 200)
    limit_memory(monkeypatch, reranker, 60)
    halved_loss, budget, halved = gradients(reranker, 200)
    assert budget == 50
    assert halved_loss == pytest.approx(loss, abs=1e-6)
    assert_same_gradients(whole, halved)


def test_a_group_that_does_not_fit_is_out_of_memory(tiny_model, monkeypatch):
    reranker = new_reranker(tiny_model("llama"), "D", 32)
    limit_memory(monkeypatch, reranker, 10)
    with pytest.raises(OutOfMemory):
        gradients(reranker, 200)


def limit_memory(monkeypatch, reranker, tokens):
    forward = type(reranker).forward

    def limited(self, packed):
        if len(packed.input_ids) > tokens:
            raise torch.OutOfMemoryError
        return forward(self, packed)

    monkeypatch.setattr(type(reranker), "forward", limited)


@pytest.mark.parametrize("token_budget", [1, 1000])
def test_a_teachers_scores_stay_with_their_groups(tiny_model, token_budget):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model("llama"), "D", 32).eval()
    data = sequences(reranker)
    with torch.no_grad():
        scored = [reranker(pack(data[index])).tolist() for index in range(len(GROUPS))]
    groups = [replace(group, scores=tuple(scores)) for group, scores in zip(GROUPS, scored, strict=True)]
    loss, _, _ = gradients(reranker, token_budget, "margin_mse", groups)
    assert loss == pytest.approx(0.0, abs=1e-10)


def test_a_group_that_fits_only_without_its_activations_is_recomputed(tiny_model, monkeypatch):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model("llama"), "D", 32).train()
    _, _, whole = gradients(reranker, 200)
    forward = type(reranker).forward

    def limited(self, packed):
        if len(packed.input_ids) > 100 or not recomputed_layers(self.backbone):
            raise torch.OutOfMemoryError
        return forward(self, packed)

    monkeypatch.setattr(type(reranker), "forward", limited)
    _, _, recomputed = gradients(reranker, 200, may_recompute=True)
    assert recomputed_layers(reranker.backbone) == 2
    assert_same_gradients(whole, recomputed)
