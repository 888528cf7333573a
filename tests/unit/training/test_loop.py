from __future__ import annotations

import pytest
import torch

from ssmrank.config import TrainSettings
from ssmrank.errors import UserError
from ssmrank.models.reranker import new_reranker
from ssmrank.training.groups import Group, GroupSequences
from ssmrank.training.loop import OutOfMemory, accumulate_gradients, make_optimizer, train
from ssmrank.training.state import TrainingState

CPU = torch.device("cpu")
QUERIES = {"q1": "mamba", "q2": "river", "q3": "search"}
DOCUMENTS = {
    "d1": "mamba state space models",
    "d2": "river boat fish",
    "d3": "search engine lucene index",
    "d4": "mountain snow",
}
GROUPS = [
    Group("q1", ("d1", "d2", "d4")),
    Group("q2", ("d2", "d1", "d3")),
    Group("q3", ("d3", "d4", "d1")),
    Group("q1", ("d1", "d3", "d2")),
]


def settings(**changes):
    values = {
        "collection": "c",
        "split": "train",
        "negatives": "n",
        "negatives_count": 2,
        "max_length": 32,
        "label": "FirstP",
        "learning_rate": 5e-3,
        "batch_groups": 4,
        "epochs": 8,
        "precision": "fp32",
    }
    return TrainSettings(**(values | changes))


def run(tiny_model, tmp_path, model_type="bert", kind="E", options=None, **arguments):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model(model_type), kind, 32)
    data = GroupSequences(GROUPS, reranker.template, QUERIES, DOCUMENTS, 32)
    state = TrainingState(tmp_path / "state", "a")
    history = train(reranker, data, settings(**(options or {})), CPU, state, **arguments)
    return reranker, history


@pytest.mark.parametrize(("model_type", "kind"), [("bert", "E"), ("opt", "D"), ("mamba", "D"), ("mamba2", "D")])
def test_training_learns_to_rank(tiny_model, tmp_path, model_type, kind):
    options = {"epochs": 40, "learning_rate": 1e-2 if kind == "E" else 5e-3}
    reranker, history = run(tiny_model, tmp_path, model_type, kind, options)
    assert history.loss[-1] < 0.75 * history.loss[0]
    scores = reranker.score("river", list(DOCUMENTS.values()))
    assert max(range(4), key=scores.__getitem__) == 1


def gradients(reranker, token_budget):
    data = GroupSequences(GROUPS, reranker.template, QUERIES, DOCUMENTS, 32)
    groups = [data[index] for index in range(len(GROUPS))]
    loss, budget = accumulate_gradients(reranker, groups, settings(), "fp32", CPU, token_budget)
    found = {name: parameter.grad for name, parameter in reranker.named_parameters()}
    reranker.zero_grad(set_to_none=True)
    return loss.item(), budget, found


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


class Killed(BaseException):
    pass


@pytest.mark.parametrize("killed_at", [2, 7])
def test_a_killed_training_ends_bit_identical(tiny_model, tmp_path, killed_at):
    # BERT has dropout, so the random state counts too.
    whole, whole_history = run(tiny_model, tmp_path / "whole")

    def kill(step, loss):
        if step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        run(tiny_model, tmp_path / "killed", save_seconds=0.0, on_step=kill)
    resumed, history = run(tiny_model, tmp_path / "killed")
    assert history.loss == whole_history.loss
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_loss_that_is_not_finite_names_step_and_batch(tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+, batch of queries q\d.*lower learning_rate"):
        run(tiny_model, tmp_path, options={"learning_rate": 1e30, "clip_norm": 1e30, "epochs": 30})


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


def test_weight_decay_spares_vectors_and_mambas_own_parameters(tiny_model):
    reranker = new_reranker(tiny_model("mamba"), "D", 32)
    decayed, others = make_optimizer(reranker, settings()).param_groups
    spared = {id(parameter) for parameter in others["params"]}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    for name, parameter in reranker.named_parameters():
        assert (id(parameter) in spared) == (parameter.ndim < 2 or name.endswith("A_log")), name
