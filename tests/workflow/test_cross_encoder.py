"""A cross-encoder that sentence-transformers saved, evaluated beside our rerankers."""

from __future__ import annotations

import csv

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from ssmrank.io.jsonl import read_jsonl
from ssmrank.io.trec import read_run

OVERLAY = """
models:
  theirs:
    label: Theirs
    kind: E
    size: 5K
    source: {kind: cross-encoder, checkpoint: {kind: folder, path: theirs}}
tables:
  table4:
    sections:
      - title: Elsewhere
        rerankers: [{model: theirs, training: none}, {model: theirs, training: firstp}]
"""


def test_a_cross_encoder_reranks_as_it_is_and_is_trained(project) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = CrossEncoder(str(project.folder / "tests/data/workflow/encoder"), num_labels=1, device="cpu")
        torch.nn.init.normal_(made.model.classifier.weight)
    made.save_pretrained(str(project.folder / "theirs"))
    (project.folder / "theirs.yaml").write_text(OVERLAY)
    options = ("--configfile", "theirs.yaml")
    built = project.jobs(project.snakemake(*options).stdout)
    assert built == {"download_model": 1, "train": 1, "rerank": 2, "evaluate": 2, "table": 1}
    runs = project.folder / "results/runs/reranked/tiny/test/bm25-top10/none"
    [path] = runs.rglob("*theirs*.trec")
    collection = project.folder / "data/collections/tiny"
    texts = {record["id"]: record["text"] for _, record in read_jsonl(collection / "documents.jsonl")}
    queries = {record["id"]: record["text"] for _, record in read_jsonl(collection / "splits/test/queries.jsonl")}
    run = read_run(path)
    assert run.keys() == queries.keys()
    for query, ranking in run.items():
        pairs = [(queries[query], texts[document]) for document, _ in ranking]
        exact = made.predict(pairs, activation_fn=torch.nn.Identity())
        np.testing.assert_allclose([score for _, score in ranking], exact, atol=2e-2)  # runs are computed in bf16
    with (project.folder / "results/tables/table4.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["model"] for row in rows] == ["Theirs", "Theirs"]
    assert project.planned(*options) == {}
