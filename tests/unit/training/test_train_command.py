from __future__ import annotations

import json

import pytest
from tiny_training import DOCUMENTS, GROUPS, QUERIES, settings

from ssmrank.cli import main
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.trec import write_qrels, write_run
from ssmrank.models.reranker import load_reranker


@pytest.fixture
def options(tmp_path, tiny_model):
    """A function that gives the command line of a training of the tiny BERT, with changed settings."""
    collection = tmp_path / "collection"
    (collection / "splits" / "train").mkdir(parents=True)
    write_jsonl(collection / "documents.jsonl", ({"id": id, "text": text} for id, text in DOCUMENTS.items()))
    queries = ({"id": id, "text": text} for id, text in QUERIES.items())
    write_jsonl(collection / "splits" / "train" / "queries.jsonl", queries)
    write_jsonl(
        tmp_path / "groups.jsonl",
        ({"query": g.query, "positive": g.documents[0], "negatives": g.documents[1:]} for g in GROUPS),
    )
    write_run(tmp_path / "dev.trec", {q: [(d, 1.0) for d in DOCUMENTS] for q in QUERIES}, "first")
    write_qrels(tmp_path / "dev.txt", {"q1": {"d1": 1}, "q2": {"d2": 1}, "q3": {"d3": 1, "d4": 0}})

    def command_line(model_type="bert", kind="E", **changes):
        words = ["train", "--settings", settings(**changes).model_dump_json(), "--model", str(tiny_model(model_type))]
        words += ["--kind", kind, "--collection", str(collection), "--split", "train"]
        words += ["--negatives", str(tmp_path / "groups.jsonl")]
        return [*words, "--output", str(tmp_path / "output"), "--state", str(tmp_path / "state")]

    return command_line


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
