"""The order of reading: the plans of its experiments, and a small one from trainings to the figure."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

ORDERS = {
    "document first": "document-first",
    "query first": "query-first",
    "query twice": "query-document-query",
    "document twice": "document-document-query",
}

OVERLAY = """
trainings:
  first: &read
    label: document first
    template: document-first
    collection: tiny
    split: train
    negatives: bm25-top20
    max_length: 48
    learning_rate: 1.0e-3
    batch_groups: 8
    groups: 16
  asked: {<<: *read, label: query first, template: query-first}
  both: {<<: *read, label: query twice, template: query-document-query}
  twice: {<<: *read, label: document twice, template: document-document-query, max_length: 80}
tables:
  table7:
    caption: The order of reading.
    reranking: bm25-top10
    tests: [{collection: tiny, split: test, metric: nDCG@10, label: Tiny}]
    sections:
      - title: First stage
        retrievers: [bm25]
      - title: Orders
        rerankers:
          - {model: tiny-mamba2, training: first}
          - {model: tiny-mamba2, training: asked}
          - {model: tiny-mamba2, training: both}
          - {model: tiny-mamba2, training: twice}
"""


@pytest.mark.slow
def test_from_trainings_in_each_order_to_a_figure(project) -> None:
    (project.folder / "reading.yaml").write_text(OVERLAY)
    figure = project.folder / "results/figures/tokens/table7.csv"
    options = ("--configfile", "reading.yaml", "--", "results/figures/tokens/table7.svg", "results/tables/table7.csv")
    project.snakemake(*options)
    assert project.planned(*options) == {}
    with figure.open(newline="") as stream:
        rows = {row["training"]: row for row in csv.DictReader(stream) if row["training"]}
    assert {name: row["order"] for name, row in rows.items()} == ORDERS
    with (project.folder / "results/tables/table7.csv").open(newline="") as stream:
        shown = {row["length"] for row in csv.DictReader(stream) if row["length"]}
    tokens = {name: float(row["tokens"]) for name, row in rows.items()}
    computed = {name: float(row["computed"]) for name, row in rows.items()}
    assert tokens["document first"] == tokens["query first"] < tokens["query twice"]
    assert tokens["document first"] < tokens["document twice"] < 2 * tokens["document first"]
    assert all(computed[name] <= tokens[name] for name in ORDERS)
    assert shown == {*ORDERS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "counts"),
    [
        (["params/reading-order.yaml"], {"train": 8, "rerank": 8, "rerank_tokens": 8, "teach": 1}),
        (
            ["params/minis.yaml", *(f"params/minis/{name}.yaml" for name in ("zero-shot", "hybrid", "reading-order"))],
            # Five models in four orders, on two collections.
            {"pretrain": 5, "train": 20, "rerank": 40, "rerank_tokens": 40, "teach": 1},
        ),
    ],
)
def test_the_experiments_plan_without_data(fresh, root: Path, files: list[str], counts: dict[str, int]) -> None:
    for name in ("params.yaml", *files):
        (fresh.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh.folder / name).write_text((root / name).read_text())
    for size in ("minis", "small"):
        (fresh.folder / "models").mkdir(exist_ok=True)
        (fresh.folder / "models" / size).symlink_to(root / "models" / size)
    targets = ("results/figures/tokens/reading-order.pdf", "results/tables/reading-order.md")
    jobs = fresh.planned("--configfile", *files, "--", *targets)
    assert {rule: jobs[rule] for rule in counts} == counts
    assert jobs["tokens"] == jobs["table"] == jobs["significance"] == 1
