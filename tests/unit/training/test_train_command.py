from __future__ import annotations

import json

from tiny_training import DOCUMENTS

from ssmrank.cli import main
from ssmrank.models.reranker import load_reranker


def test_train_writes_a_checkpoint_and_leaves_no_state(options, tmp_path):
    assert main(options(epochs=4)) == 0
    outcome = json.loads((tmp_path / "output" / "outcome.json").read_text())
    assert (outcome["status"], outcome["steps"], len(outcome["loss"])) == ("ok", 4, 4)
    assert len(load_reranker(tmp_path / "output").score("river", list(DOCUMENTS.values()))) == 4
    assert not (tmp_path / "state").exists()


def test_a_distillation_loss_without_a_teacher_is_one_line(options, capsys):
    assert main(options(loss="margin_mse")) == 2
    assert 'groups.jsonl:1: key "scores" is missing' in capsys.readouterr().err


def test_an_unknown_loss_names_the_known(options, capsys):
    assert main(options(loss="hinge")) == 2
    error = capsys.readouterr().err
    assert "loss 'hinge' is unknown; known: cross_entropy, ranknet, lambda_loss, margin_mse, kl_divergence" in error
