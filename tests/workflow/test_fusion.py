"""Fused rows and a fused first stage through the workflow."""

from __future__ import annotations

import csv
import json

OVERLAY = """
encoders:
  tiny: {model: tiny-bert, pooling: mean, normalize: true}
retrievers:
  rescored: {kind: dense, encoder: tiny, candidates: {retriever: bm25, depth: 5}, label: Dense}
  hybrid: {kind: fusion, retrievers: [bm25, rescored], method: rrf, depth: 15, label: Hybrid}
fusions:
  with-bm25: {retrievers: [bm25], weights: [1, 2]}
  fitted:
    label: + both
    method: min-max
    retrievers: [hybrid]
    rerankers: [{model: tiny-mamba2, training: firstp}]
    weights: {split: train, metric: MRR@10, steps: 3}
tables:
  table4:
    significance: {baseline: {model: tiny-bert, training: firstp, fusion: with-bm25}}
    sections:
      - title: First stage
        retrievers: [bm25, hybrid]
      - title: Fused
        rerankers:
          - {model: tiny-bert, training: firstp, fusion: with-bm25}
          - {model: tiny-bert, training: firstp, fusion: fitted}
"""


def test_fused_rows(project) -> None:
    (project.folder / "fused.yaml").write_text(OVERLAY)
    options = ("--configfile", "fused.yaml")
    # The weights are fitted on the training queries, so both models rerank these too.
    assert project.jobs(project.snakemake(*options).stdout) == {
        "retrieve_dense": 2,
        "fuse_first_stage": 2,
        "evaluate_first_stage": 1,
        "rerank": 2,
        "fuse_weights": 1,
        "fuse": 2,
        "evaluate_fused": 2,
        "significance": 1,
        "table": 1,
    }
    assert project.planned(*options) == {}
    results = project.folder / "results"
    with (results / "tables/table4.csv").open() as stream:
        assert [row["model"] for row in csv.DictReader(stream)] == [
            *("BM25", "Hybrid"),
            *("Tiny BERT + BM25", "Tiny BERT + both"),
        ]
    page = (results / "tables/table4.md").read_text()
    assert "+ BM25: z-scores of BM25 and the reranker over the documents of a query that were reranked, added" in page
    assert "with weights 1 and 2." in page
    assert "weights fitted to MRR@10 on split train of each collection." in page
    assert "Hybrid: reciprocal ranks, 1 / (60 + rank), of BM25 and Dense over a query's first 15 documents" in page
    assert "Tiny BERT + both" in (results / "tables/table4.html").read_text()
    weights = json.loads((results / "fusions/reranked/tiny/train/bm25-top10/firstp/tiny-bert/fitted.json").read_text())
    assert len(weights["tried"]) == 6 and sum(weights["weights"]) == 1
    rerank = json.loads((results / "provenance/rerank.json").read_text())
    fused = [output.rpartition("/")[2] for output in rerank if not output.startswith("results/runs/reranked")]
    assert sorted(fused) == ["fitted.json", "fitted.trec", "with-bm25.trec"]
    # New weights fuse again and rerank nothing.
    with project.edited("fused.yaml", "weights: [1, 2]", "weights: [1, 3]"):
        assert project.planned(*options) == {"fuse": 1, "evaluate_fused": 1, "significance": 1, "table": 1}
