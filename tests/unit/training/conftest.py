"""A tiny collection and its command line. Lets these tests and the processes that they start import `tiny_training`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.trec import write_qrels, write_run

sys.path.insert(0, str(Path(__file__).parent))

from tiny_training import DOCUMENTS, GROUPS, QRELS, QUERIES, settings


@pytest.fixture
def options(tmp_path, tiny_model):
    """A function that returns the command line of a training of the tiny BERT with changed settings."""
    collection = tmp_path / "collection"
    (collection / "splits" / "train").mkdir(parents=True)
    write_jsonl(collection / "documents.jsonl", ({"id": id, "text": text} for id, text in DOCUMENTS.items()))
    queries = ({"id": id, "text": text} for id, text in QUERIES.items())
    write_jsonl(collection / "splits" / "train" / "queries.jsonl", queries)
    write_jsonl(
        tmp_path / "groups.jsonl",
        ({"query": g.query, "positive": g.documents[0], "negatives": g.documents[1:]} for g in GROUPS),
    )
    write_qrels(collection / "splits" / "train" / "qrels.txt", QRELS)
    write_run(tmp_path / "dev.trec", {q: [(d, 1.0) for d in DOCUMENTS] for q in QUERIES}, "first")
    write_qrels(tmp_path / "dev.txt", {"q1": {"d1": 1}, "q2": {"d2": 1}, "q3": {"d3": 1, "d4": 0}})

    def command_line(model_type="bert", kind="E", **changes):
        words = ["train", "--settings", settings(**changes).model_dump_json(), "--model", str(tiny_model(model_type))]
        words += ["--kind", kind, "--collection", str(collection), "--split", "train"]
        words += ["--negatives", str(tmp_path / "groups.jsonl")]
        return [*words, "--output", str(tmp_path / "output"), "--state", str(tmp_path / "state")]

    return command_line
