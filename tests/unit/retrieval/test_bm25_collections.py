"""BM25 on public collections, compared with published values; skipped without the collections."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssmrank.collections.canonical import write_collection
from ssmrank.collections.folder import FolderSource
from ssmrank.config.collections import FolderCollection
from ssmrank.config.retrievers import Bm25
from ssmrank.evaluation.metrics import evaluate
from ssmrank.io.texts import read_queries
from ssmrank.io.trec import read_qrels
from ssmrank.retrieval.index import build_index
from ssmrank.retrieval.retrieve import search

SHARED = Path(os.environ.get("SSMRANK_SHARED", Path(__file__).parents[4] / "shared"))


def collection(name: str, folder: Path) -> Path:
    source = SHARED / "collections" / name
    if not (source / "corpus.jsonl").is_file():
        pytest.skip(f"no {source}")
    settings = FolderCollection(kind="folder", path=str(source))
    write_collection(FolderSource(settings, ["title", "text"]), ["test"], folder / "collection")
    return folder / "collection"


# NFCorpus and SciFact: Pyserini's two-click reproductions, beir, bm25-flat (k1=0.9, b=0.4, Porter, title and text).
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("nfcorpus", {"nDCG@10": 0.3218, "Recall@100": 0.2457, "Recall@1000": 0.3704}),
        ("scifact", {"nDCG@10": 0.6789, "Recall@100": 0.9253, "Recall@1000": 0.9767}),
        ("cranfield", {"nDCG@10": 0.411, "MAP": 0.396}),
    ],
)
def test_values_are_the_published(tmp_path: Path, name: str, published: dict[str, float]) -> None:
    folder = collection(name, tmp_path)
    build_index(folder, tmp_path / "index", threads=2)
    queries = read_queries(folder / "splits/test/queries.jsonl")
    run = search(Bm25(kind="bm25", depth=1000), tmp_path / "index", queries, threads=2)
    found = evaluate(read_qrels(folder / "splits/test/qrels.txt"), run, list(published)).mean()
    digits = 0.001 if name == "cranfield" else 0.00005
    assert found == pytest.approx(published, abs=digits)
