"""A bi-encoder that the workflow trains, as first stage of a table and of a reranking."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from ssmrank.config.params import read_params
from ssmrank.errors import UserError
from ssmrank.io.jsonl import read_jsonl
from ssmrank.io.trec import read_run

OVERLAY = """
trainings:
  retriever:
    label: bi-encoder
    collection: tiny
    split: train
    negatives: bm25-top20
    max_length: 32
    learning_rate: 1.0e-3
    batch_groups: 8
    groups: 16
    bi_encoder: {query_length: 16, widths: [8]}
retrievers:
  ours:
    kind: dense
    trained: {training: retriever, model: tiny-mamba2, precision: fp32, vectors: float32}
    width: 8
    depth: 20
    label: Ours
rerankings:
  ours-top10: {retriever: ours, depth: 10}
tables:
  table7:
    caption: Retrieved with ours, and reranked with ours.
    reranking: ours-top10
    tests:
      - {collection: tiny, split: test, metric: nDCG@10, label: nDCG@10}
    sections:
      - title: First stage
        retrievers: [bm25, ours]
      - title: Rerankers
        rerankers: [{model: tiny-bert, training: firstp}]
"""
OPTIONS = ("--configfile", "ours.yaml", "--", "results/tables/table7.csv")
JOBS = {
    "download_collection": 1,
    "download_model": 2,
    "index": 1,
    "retrieve": 2,
    "negatives": 1,
    "train": 2,
    "encode": 1,
    "retrieve_dense": 1,
    "rerank": 1,
    "evaluate": 1,
    "evaluate_first_stage": 2,
    "table": 1,
}


def test_a_trained_retriever_is_a_first_stage_like_others(fresh) -> None:
    (fresh.folder / "ours.yaml").write_text(OVERLAY)
    assert fresh.planned(*OPTIONS) == JOBS
    for target, jobs in (("all_index", {"encode": 1, "train": 1}), ("all_train", {"train": 3})):
        planned = fresh.planned("--configfile", "ours.yaml", "--", target)
        assert {rule: planned.get(rule) for rule in jobs} == jobs


@pytest.mark.slow
def test_retrieving_and_reranking_with_ours(fresh) -> None:
    (fresh.folder / "ours.yaml").write_text(OVERLAY)
    fresh.snakemake(*OPTIONS)
    with (fresh.folder / "results/tables/table7.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["model"] for row in rows] == ["BM25", "Ours", "Tiny BERT"]
    run = read_run(fresh.folder / "results/runs/first-stage/tiny/test/ours.trec")
    [vectors] = (fresh.folder / "data/indexes/tiny/vectors-ours@trained").glob("vectors-0*.npy")
    stored = np.load(vectors)
    assert stored.shape == (60, 8)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-5)
    # The run is what the checkpoint says, and the reranked one has its documents.
    from ssmrank.config.encoders import Encoder
    from ssmrank.retrieval.encoder import BiEncoder

    folder = fresh.folder / "results/checkpoints/retriever/tiny-mamba2"
    encoder = BiEncoder(folder, Encoder(model="m", precision="fp32", width=8))
    asked = fresh.folder / "data/collections/tiny/splits/test/queries.jsonl"
    queries = {record["id"]: record["text"] for _, record in read_jsonl(asked)}
    products = encoder.queries(list(queries.values())) @ stored.T
    for own, query in zip(products, queries, strict=True):
        np.testing.assert_allclose([score for _, score in run[query]], np.sort(own)[::-1][:20], atol=1e-5)
    reranked = read_run(fresh.folder / "results/runs/reranked/tiny/test/ours-top10/firstp/tiny-bert.trec")
    assert {query: {d for d, _ in found} for query, found in reranked.items()} == {
        query: {d for d, _ in found[:10]} for query, found in run.items()
    }
    assert fresh.planned(*OPTIONS) == {}
    with fresh.edited("ours.yaml", "widths: [8]", "widths: [4]"):
        planned = fresh.planned(*OPTIONS)
        assert (planned["train"], planned["encode"], planned["retrieve_dense"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trained: {training: retriever", "trained: {training: firstp", "'firstp' trains a reranker; name a training"),
        ("model: tiny-bert, training: firstp", "model: tiny-bert, training: retriever", "trains a bi-encoder, which"),
        ("    width: 8", "    encoder: e", "name either an encoder or a trained one"),
        ("model: tiny-mamba2,", "model: tiny-mamba3,", "'tiny-mamba3' is not defined in section models"),
        ("negatives: bm25-top20\n    max", "negatives: own\n    max", "trainings.retriever: it learns from itself"),
    ],
)
def test_names_that_do_not_fit_are_refused(root, tmp_path, old, new, message) -> None:
    own = "negatives:\n  own: {retriever: ours, depth: 20, count: 2}\n" if "own" in new else ""
    assert old in OVERLAY
    (tmp_path / "ours.yaml").write_text(OVERLAY.replace(old, new) + own)
    with pytest.raises(UserError, match=message):
        read_params(root / "tests/data/params/tiny.yaml", tmp_path / "ours.yaml")
