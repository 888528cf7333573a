from __future__ import annotations

import shutil
from typing import ClassVar

import pytest
import torch
from tiny_training import DOCUMENTS, sequences, settings

from ssmrank.errors import UserError
from ssmrank.models.architectures import MODEL_TYPES
from ssmrank.models.reranker import INPUT_FILE, new_reranker
from ssmrank.training.loop import make_optimizer, train
from ssmrank.training.parallel import Workers
from ssmrank.training.state import TrainingState
from tiny_models import kind_of

CPU = torch.device("cpu")
LIKE_OTHERS = {
    "bart",
    "electra",
    "falcon_h1",
    "gemma3_text",
    "granitemoehybrid",
    "llama",
    "nemotron_h",
    "qwen3",
    "roberta",
}
"""Architectures whose training is like others' and whose gradients are tested elsewhere; training is slow."""


def run(tiny_model, tmp_path, model_type="bert", kind="E", options=None, device=CPU, **arguments):
    torch.manual_seed(0)
    reranker = new_reranker(tiny_model(model_type), kind, 32)
    data = sequences(reranker)
    state = TrainingState(tmp_path / "state", "a")
    history = train(reranker, data, settings(**(options or {})), device, state, **arguments)
    return reranker, history


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name not in LIKE_OTHERS])
def test_training_learns_to_rank(tiny_model, tmp_path, model_type):
    options = {"epochs": 40, "learning_rate": 5e-3}
    reranker, history = run(tiny_model, tmp_path, model_type, kind_of(model_type), options)
    assert history.loss[-1] < 0.75 * history.loss[0]
    scores = reranker.score("river", list(DOCUMENTS.values()))
    assert max(range(4), key=scores.__getitem__) == 1


def test_training_reads_the_query_on_both_sides(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("mamba2"), tmp_path / "model")
    (folder / INPUT_FILE).write_text('{"template": "query-document-query"}')
    reranker, history = run(lambda _: folder, tmp_path, "mamba2", "D", {"epochs": 40, "learning_rate": 5e-3})
    assert reranker.template.order == "query-document-query"
    assert history.loss[-1] < 0.75 * history.loss[0]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("killed_at", [2, 7])
def test_a_killed_training_ends_bit_identical(tiny_model, tmp_path, killed_at):
    # BERT has dropout, so the random state matters too.
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("model_type", "kind"), [("bert", "E"), ("opt", "D"), ("llama", "D"), ("mamba", "D"), ("mamba2-wide", "D")]
)
def test_a_training_killed_on_a_gpu_goes_on_along_the_same_curve(tiny_model, tmp_path, model_type, kind):
    # A resumed training captures its graphs anew, so its first steps run other kernels than the uninterrupted training.
    arguments = {"options": {"precision": "bf16", "learning_rate": 1e-3, "epochs": 10}, "device": torch.device("cuda")}
    _, whole = run(tiny_model, tmp_path / "whole", model_type, kind, **arguments)

    def kill(step, loss):
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        run(tiny_model, tmp_path / "killed", model_type, kind, **arguments, save_seconds=0.0, on_step=kill)
    _, resumed = run(tiny_model, tmp_path / "killed", model_type, kind, **arguments)
    assert resumed.loss[:5] == pytest.approx(whole.loss[:5], abs=1e-5)
    assert resumed.loss[5:] == pytest.approx(whole.loss[5:], abs=1e-2)


def test_a_loss_that_is_not_finite_names_step_and_batch(tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step \d+, batch of queries q\d.*lower learning_rate"):
        run(tiny_model, tmp_path, options={"learning_rate": 1e30, "clip_norm": 1e30, "epochs": 30})


def test_weight_decay_spares_vectors_and_mambas_own_parameters(tiny_model):
    reranker = new_reranker(tiny_model("mamba"), "D", 32)
    decayed, others = make_optimizer(reranker, settings(), Workers()).param_groups
    spared = {id(parameter) for parameter in others["params"]}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    for name, parameter in reranker.named_parameters():
        assert (id(parameter) in spared) == (parameter.ndim < 2 or name.endswith("A_log")), name


class Measured:
    """A validator with given values; the first process is killed at step 8."""

    every_steps, patience = 2, None
    values: ClassVar = {2: 0.1, 4: 0.7, 6: 0.7, 8: 0.2}

    def __init__(self, steps_done=0, killed_at=None):
        self.steps, self.killed_at = steps_done, killed_at

    def __call__(self, reranker, workers):
        self.steps += 2
        if self.steps == self.killed_at:
            raise Killed
        return self.values[self.steps]


def test_the_best_weights_survive_a_kill(tiny_model, tmp_path):
    fourth, _ = run(tiny_model, tmp_path / "stopped", on_step=lambda step, loss: None, validator=Measured())
    with pytest.raises(Killed):
        run(tiny_model, tmp_path / "killed", save_seconds=0.0, validator=Measured(killed_at=8))
    state = TrainingState(tmp_path / "killed" / "state", "a")
    done, saved = state.load()
    assert done == 7
    assert saved["history"]["validation"] == [(2, 0.1), (4, 0.7), (6, 0.7)]
    resumed, history = run(tiny_model, tmp_path / "killed", validator=Measured(steps_done=6))
    assert history.best == (4, 0.7)
    assert history.validation[-1] == (8, 0.2)
    kept = state.load_best(4)
    for (name, one), other in zip(resumed.state_dict().items(), fourth.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
        assert torch.equal(one, kept[name]), name
