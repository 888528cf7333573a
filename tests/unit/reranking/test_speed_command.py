"""Reranking speed with and without document reuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssmrank.cli import main
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.texts import StoreWriter
from ssmrank.io.trec import write_run
from ssmrank.models.reranker import new_reranker
from ssmrank.reporting.costs import cost_sentence, cost_texts


@pytest.mark.parametrize(("model_type", "kind"), [("bert", "E"), ("llama", "D")])
def test_both_ways_are_measured_over_the_same_pairs(tiny_model, tmp_path: Path, model_type: str, kind: str) -> None:
    collection = tmp_path / "collection"
    documents, queries = [f"d{n}" for n in range(4)], [f"q{n}" for n in range(6)]
    (collection / "splits" / "test").mkdir(parents=True)
    with StoreWriter(collection / "documents.jsonl") as writer:
        for number, document in enumerate(documents):
            writer.add(document, "mamba state space models " * (3 + number))
    write_jsonl(collection / "splits/test/queries.jsonl", ({"id": query, "text": "river boat"} for query in queries))
    ranking = [(document, -float(number)) for number, document in enumerate(documents)]
    write_run(tmp_path / "run.trec", dict.fromkeys(queries, ranking), "first-stage")
    new_reranker(tiny_model(model_type), kind, 48).eval().save(tmp_path / "checkpoint")
    settings = {"retriever": "bm25", "depth": 3, "token_budget": 512, "precision": "fp32"}
    options = ["--checkpoint", str(tmp_path / "checkpoint"), "--collection", str(collection), "--split", "test"]
    options += ["--run", str(tmp_path / "run.trec"), "--pairs", "12", "--output", str(tmp_path / "speed.json")]
    assert main(["measure", "speed", "--settings", json.dumps(settings), *options]) == 0
    result = json.loads((tmp_path / "speed.json").read_text())
    assert (result["pairs"], result["collection"], result["device"]) == (12, "collection", "CPU")
    whole = result["whole"]
    assert whole["pairs_per_second"] == pytest.approx(12 / whole["seconds"], rel=0.1)
    if kind == "E":
        assert result["reuse"] is None
    else:
        # Three documents of four queries each.
        assert result["reuse"]["tokens"] < whole["tokens"] / 2


def test_a_model_that_did_not_fit_in_training_has_no_speed(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/outcome.json").write_text('{"status": "oom"}')
    options = ["--checkpoint", str(tmp_path / "checkpoint"), "--collection", str(tmp_path), "--split", "test"]
    options += ["--run", str(tmp_path / "run.trec"), "--output", str(tmp_path / "speed.json")]
    assert main(["measure", "speed", "--settings", json.dumps({"retriever": "bm25", "depth": 10}), *options]) == 0
    speed = json.loads((tmp_path / "speed.json").read_text())
    outcomes = [{"status": "oom", "device": "Card"}]
    assert cost_texts(None, outcomes, speed)[-2:] == ("OOM", "OOM")
    assert "pairs/s" not in cost_sentence(outcomes, [speed])
