"""BM25 on public collections against published values; skipped where the collections are not at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ssmrank.config import Bm25
from ssmrank.retrieval.index import build_index
from ssmrank.retrieval.retrieve import search

SHARED = Path(os.environ.get("SSMRANK_SHARED", Path(__file__).parents[4] / "shared"))


# Published: NFCorpus 0.322 (Anserini) to 0.325 (BEIR's paper), SciFact 0.665 (BEIR's paper) to 0.679 (Anserini).
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "low", "high"), [("nfcorpus", 0.320, 0.3255), ("scifact", 0.665, 0.6795), ("cranfield", 0.4105, 0.4115)]
)
def test_ndcg_at_10_is_the_published(tmp_path: Path, name: str, low: float, high: float) -> None:
    source = SHARED / "collections" / name
    if not (source / "corpus.jsonl").is_file():
        pytest.skip(f"no {source}")
    ir_measures = pytest.importorskip("ir_measures")
    with (tmp_path / "documents.jsonl").open("w", encoding="utf-8") as stream:
        for record in _lines(source / "corpus.jsonl"):
            text = " ".join(part for part in (record.get("title"), record.get("text")) if part)
            stream.write(json.dumps({"id": record["_id"], "text": text}) + "\n")
    judgments = [line.split("\t") for line in (source / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in judgments:
        qrels.setdefault(query, {})[document] = int(grade)
    queries = {record["_id"]: record["text"] for record in _lines(source / "queries.jsonl") if record["_id"] in qrels}
    build_index(tmp_path, tmp_path / "index", threads=2)
    run = search(Bm25(kind="bm25", depth=100), tmp_path / "index", queries, threads=2)
    scores = {query: dict(run.get(query, [])) for query in queries}
    measured = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, scores)[ir_measures.nDCG @ 10]
    assert low <= measured <= high


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
