"""Other first stages than BM25, and tables without results, through the workflow."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

GIVEN = "t1 Q0 d1 1 2.0 theirs\n"

OVERLAY = """
encoders:
  tiny: {{model: tiny-bert, pooling: mean, normalize: true, shard_documents: 25}}
retrievers:
  dense: {{kind: dense, encoder: tiny, depth: 20, label: Dense}}
  hnsw: {{kind: dense, encoder: tiny, index: {{kind: hnsw}}, depth: 20, label: HNSW}}
  rescored: {{kind: dense, encoder: tiny, candidates: {{retriever: bm25, depth: 5}}, label: Rescored}}
  given: {{kind: run, runs: {{tiny/test: {{path: given.trec, sha256: {sha256}}}}}, label: Given}}
tables:
  table4:
    sections:
      - title: First stage
        retrievers: [bm25, dense, hnsw, rescored, given]
overviews:
  table1:
    kind: models
    caption: The models.
    sections: [{{title: All, models: [tiny-bert, tiny-mamba2]}}]
  table9:
    kind: trainings
    caption: The trainings.
    sections: [{{title: All, rerankers: [{{model: tiny-bert, training: firstp}}]}}]
"""


def test_every_kind_of_first_stage(project) -> None:
    query = next(iter(_runs(project.folder, "bm25")))
    given = GIVEN.replace("t1", query)
    (project.folder / "given.trec").write_text(given)
    (project.folder / "more.yaml").write_text(OVERLAY.format(sha256=hashlib.sha256(given.encode()).hexdigest()))
    options = ("--configfile", "more.yaml")
    assert project.planned(*options) == {
        "encode": 1,
        "vector_index": 1,
        "retrieve_dense": 3,
        "import_run": 1,
        "evaluate_first_stage": 4,
        "overview": 2,
        "table": 1,
    }
    project.snakemake(*options)
    exact, graph, rescored = (_runs(project.folder, name) for name in ("dense", "hnsw", "rescored"))
    assert exact.keys() == graph.keys() and exact == graph
    assert all({*documents} <= {*_runs(project.folder, "bm25")[query][:5]} for query, documents in rescored.items())
    assert _runs(project.folder, "given") == {query: ["d1"]}
    rows = (project.folder / "results/tables/table4.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["BM25", "Dense", "HNSW", "Rescored", "Given"]
    assert "Tiny Mamba-2,decoder,5K,none," in (project.folder / "results/tables/table1.csv").read_text()
    assert project.planned(*options) == {}
    # Another pooling encodes again, another label only prints the table again, other HNSW settings rebuild one index.
    for old, new, jobs in (
        ("pooling: mean", "pooling: first", {"encode": 1, "vector_index": 1, "retrieve_dense": 3}),
        ("label: HNSW", "label: Graph", {}),
        ("kind: hnsw}", "kind: hnsw, links: 16}", {"vector_index": 1, "retrieve_dense": 1}),
    ):
        with project.edited("more.yaml", old, new):
            evaluated = {"evaluate_first_stage": jobs["retrieve_dense"]} if jobs else {}
            assert project.planned(*options) == jobs | evaluated | {"table": 1}


@pytest.mark.slow
def test_the_paper_s_grid_plans_without_data(fresh, root: Path) -> None:
    for name in ("params.yaml", "paper-models.yaml", "paper.yaml"):
        source = root / name if name == "params.yaml" else root / "params" / name
        (fresh.folder / name).write_text(source.read_text())
    assert fresh.planned("--configfile", "paper-models.yaml", "paper.yaml") == {
        "download_collection": 15,
        "download_model": 21,
        "index": 2,
        "encode": 14,
        "retrieve": 13,
        "retrieve_dense": 17,
        "negatives": 2,
        "train": 52,
        "rerank": 20 * 3 + 20 * 13 + 32 * 3,
        "evaluate": 20 * 3 + 20 * 13 + 32 * 3,
        "evaluate_first_stage": 28,
        "significance": 4,
        "table": 6,
        "overview": 3,
    }
    pages = fresh.planned("--configfile", "paper-models.yaml", "paper.yaml", "--", "results/tables/tables.pdf")
    assert {rule: pages[rule] for rule in ("table", "overview", "table5", "table6", "inference_speed")} == {
        "table": 6,
        "overview": 3,
        "table5": 1,
        "table6": 1,
        "inference_speed": 2,
    }


def _runs(folder: Path, retriever: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (folder / f"results/runs/first-stage/tiny/test/{retriever}.trec").read_text().splitlines():
        query, _, document, *_ = line.split()
        found.setdefault(query, []).append(document)
    return found
