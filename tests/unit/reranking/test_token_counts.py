"""How many tokens a reranking takes, counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ssmrank.cli import main
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.texts import StoreWriter
from ssmrank.io.trec import write_run
from ssmrank.models.reranker import Reranker, new_reranker
from ssmrank.reranking import planner, token_counts

WORDS = {"d0": 10, "d1": 20, "d2": 30}
QUERIES = {"q0": "river", "q1": "river boat", "q2": "snow", "q3": "mamba scan"}
ASKED = [1, 2, 1, 2]


@pytest.fixture
def counted(tiny_model, tmp_path: Path):
    """A function that counts the tokens of three documents for four queries."""
    collection = tmp_path / "collection"
    (collection / "splits" / "test").mkdir(parents=True)
    with StoreWriter(collection / "documents.jsonl") as writer:
        for document, words in WORDS.items():
            writer.add(document, "fish " * words)
    write_jsonl(collection / "splits/test/queries.jsonl", ({"id": id, "text": text} for id, text in QUERIES.items()))
    ranking = [(document, -float(number)) for number, document in enumerate(WORDS)]
    write_run(tmp_path / "run.trec", dict.fromkeys(QUERIES, ranking), "first-stage")

    def count(model_type: str, kind: str, order: str | None, max_length: int = 100, **changes) -> dict:
        plain = new_reranker(tiny_model(model_type), kind, max_length)
        settings = replace(plain.settings, template=order)
        Reranker(plain.backbone, plain.tokenizer, settings).eval().save(tmp_path / "checkpoint")
        settings = {"retriever": "bm25", "depth": 3, "token_budget": 4096} | changes
        options = ["--checkpoint", str(tmp_path / "checkpoint"), "--collection", str(collection), "--split", "test"]
        options += ["--run", str(tmp_path / "run.trec"), "--output", str(tmp_path / "tokens.json")]
        assert main(["measure", "tokens", "--settings", json.dumps(settings), *options]) == 0
        return json.loads((tmp_path / "tokens.json").read_text())

    return count


def test_orders_by_hand(counted) -> None:
    # "document : ... ;" are 3 tokens and the words, "query : ... ;" too; [SEP] ends each sequence.
    documents, queries = sum(WORDS.values()) + 3 * 3, sum(ASKED) + 4 * 3
    first = counted("mamba2", "D", None)
    whole = 4 * documents + 3 * queries + 12
    assert (first["pairs"], first["tokens"], first["shortened"]) == (12, whole, 0)
    # Each document once with " query :", then what differs.
    assert first["computed"] == documents + 3 * 2 + 3 * (queries - 4 * 2) + 12
    assert first["order"] == "document-first" and first["collection"] == "collection"
    twice = counted("mamba2", "D", "document-document-query")
    assert twice["tokens"] == whole + 4 * documents
    assert twice["computed"] == first["computed"] + documents
    both = counted("mamba2", "D", "query-document-query")
    assert both["tokens"] == whole + 3 * queries
    # "; query : ... ;" and " document :" have 8 tokens at most, so three documents share too few.
    assert both["computed"] == both["tokens"]
    # "[CLS] ; query : ... ; document : ..." has as many.
    encoder = counted("bert", "E", None)
    assert encoder["tokens"] == encoder["computed"] == whole


def test_what_is_cut_is_counted_for_documents_and_passages(counted) -> None:
    cut = counted("mamba2", "D", None, 30)
    assert cut["shortened"] == 4 and cut["tokens"] < counted("mamba2", "D", None)["tokens"]
    twice = counted("mamba2", "D", "document-document-query", 30)
    assert twice["shortened"] == 12
    passages = counted("mamba2", "D", None, 30, passages={"length": 15, "stride": 10})
    assert passages["pairs"] == 12 and passages["shortened"] == 0


def test_tokens_are_those_of_the_parts_that_a_reranking_is_planned_in(counted, monkeypatch) -> None:
    orders = ("document-first", "query-document-query")
    whole = [counted("mamba2", "D", order) for order in orders]
    monkeypatch.setattr(planner, "FIRST_PART", 40)  # each document in a part of its own
    parts = [counted("mamba2", "D", order) for order in orders]
    assert parts == whole
    counts = []
    plan = token_counts.plan_work
    monkeypatch.setattr(token_counts, "plan_work", lambda *words, **keys: counts.append(1) or plan(*words, **keys))
    counted("mamba2", "D", None)
    assert len(counts) > 1


def test_a_model_that_did_not_fit_in_training_has_no_tokens(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/outcome.json").write_text('{"status": "oom"}')
    options = ["--checkpoint", str(tmp_path / "checkpoint"), "--collection", str(tmp_path), "--split", "test"]
    options += ["--run", str(tmp_path / "run.trec"), "--output", str(tmp_path / "tokens.json")]
    assert main(["measure", "tokens", "--settings", json.dumps({"retriever": "bm25", "depth": 10}), *options]) == 0
    assert json.loads((tmp_path / "tokens.json").read_text()) == {"status": "oom"}
