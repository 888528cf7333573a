"""What jobs take: by hand on a small grid, and against what was measured."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ssmrank.config.params import Params, read_params
from ssmrank.planning.dag import PlannedJob
from ssmrank.planning.estimate import (
    INDEX_BYTES,
    LUCENE_BYTES_PER_SECOND,
    Estimate,
    Estimator,
    distinct_documents,
)
from ssmrank.planning.lengths import lengths_of
from ssmrank.planning.report import costs
from ssmrank.planning.speeds import Speeds


@pytest.fixture
def paper(root: Path) -> Params:
    return read_params(root / "params.yaml", root / "params/paper-models.yaml", root / "params/paper.yaml")


@pytest.fixture
def estimator(root: Path, paper: Params) -> Estimator:
    return Estimator(paper, Speeds(root / "benchmarks/results"), root / "benchmarks/workloads")


def reranked(estimator: Estimator, collection: str, split: str, model: str, rule: str = "rerank") -> Estimate:
    names = {"collection": collection, "split": split, "reranking": "bge-top1000", "training": "passage"}
    return estimator.estimate(PlannedJob(rule, names | {"model": model}))


def test_an_encoder_s_reranking(estimator: Estimator) -> None:
    # Quora: 10,000 queries, 1,000 documents each; 11.44 and 9.53 words, 1.35 tokens a word, 7 tokens around them.
    found = reranked(estimator, "quora", "test", "bert-large")
    tokens = 10_000 * 1000 * (11.44 * 1.35 + 3 + 9.53 * 1.35 + 4)
    assert found.tokens == found.computed == pytest.approx(tokens)
    speed = estimator.speeds.inference(estimator.params.models["bert-large"], tokens / 1e7)
    assert speed is not None and found.gpu_seconds == pytest.approx(tokens / speed)
    assert found.written == 10_000 * 1000 * 45


def test_a_decoder_computes_a_document_once(estimator: Estimator) -> None:
    # 522,931 documents, each query has 1,000 of them: all but (1 - 1000/522931)^10000, which is 5e-9, are different.
    found = reranked(estimator, "quora", "test", "mamba-2-370m")
    documents, queries = 522_931 * (11.44 * 1.35 + 3), 1e7 * (9.53 * 1.35 + 4)
    assert found.computed == pytest.approx(documents + queries, rel=1e-6)
    models = estimator.params.models

    def in_order(template: str) -> Estimate:
        own = models["mamba-2-370m"].model_copy(update={"template": template})
        estimator.params = estimator.params.model_copy(update={"models": models | {"mamba-2-370m": own}})
        return reranked(estimator, "quora", "test", "mamba-2-370m")

    # With the query first, it is computed once for its 1,000 documents.
    first = in_order("query-first")
    assert first.tokens == found.tokens and first.computed == pytest.approx(found.tokens - 0.999 * queries)
    both = in_order("query-document-query")
    assert both.tokens == pytest.approx(found.tokens + queries)
    assert both.computed == pytest.approx(both.tokens - 0.999 * queries)
    twice = in_order("document-document-query")
    assert twice.tokens == pytest.approx(2 * found.tokens - queries)
    assert twice.computed == pytest.approx(2 * documents + queries, rel=1e-6)
    assert distinct_documents(100, 10, 1) == pytest.approx(10)
    assert distinct_documents(100, 10, 2) == pytest.approx(19)
    assert distinct_documents(5, 10, 3) == 5


@pytest.mark.parametrize("collection", ["nfcorpus", "scifact"])
@pytest.mark.parametrize("model", ["Mamba-2-370M"])
def test_reranking_against_its_measurement(estimator: Estimator, root: Path, collection: str, model: str) -> None:
    """Tokens, computed tokens and seconds, from texts to a run file on an H200."""
    with open(root / "benchmarks/results/reranking-h200.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wanted = (f"endtoend {collection}-whole", model, "ssmrank, text to run file")
    [row] = [row for row in rows if (row["benchmark"], row["model"], row["implementation"]) == wanted]
    found = reranked(estimator, collection, "test", model.lower())
    assert found.tokens == pytest.approx(float(row["tokens"]), rel=0.05)
    assert found.computed == pytest.approx(float(row["computed"]), rel=0.25)
    assert found.gpu_seconds == pytest.approx(float(row["seconds"]), rel=0.2)


def test_training_against_its_measurement(estimator: Estimator, root: Path) -> None:
    """Texts of MS MARCO, 48,000 tokens in a pass."""
    with open(root / "benchmarks/results/training-h200.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["implementation"] == "ssmrank, mixed lengths"]
    assert len(rows) == 4
    for row in rows:
        model = estimator.params.models[row["model"].lower()]
        speed = estimator.speeds.training(model, 94, float(row["tokens"]))
        assert speed == pytest.approx(float(row["tokens"]) / float(row["seconds"]), rel=0.1)


def test_a_training(estimator: Estimator, root: Path) -> None:
    found = estimator.estimate(PlannedJob("train", {"training": "passage", "model": "opt-350m"}))
    lengths = lengths_of("msmarco-passage", root / "benchmarks/workloads")
    assert lengths is not None
    # 524,000 groups of one relevant passage and 15 others, once; 8 groups fill less than a pass of 16,384 tokens.
    each = lengths.document(512) + lengths.query()
    assert 90 < each < 100
    assert found.tokens == found.computed == pytest.approx(524_000 * 16 * each)
    speed = estimator.speeds.training(estimator.params.models["opt-350m"], each, 8 * 16 * each)
    assert speed is not None and found.gpu_seconds == pytest.approx(524_000 * 16 * each / speed)
    assert found.written == 4 * 350e6
    # LongP has 320,000 groups of 8, and passes are full.
    found = estimator.estimate(PlannedJob("train", {"training": "document-longp", "model": "opt-350m"}))
    lengths = lengths_of("msmarco-document", root / "benchmarks/workloads")
    assert lengths is not None
    each = lengths.document(1536) + lengths.query()
    assert 850 < each < 900
    assert found.tokens == pytest.approx(320_000 * 8 * each)


def test_first_stages(estimator: Estimator) -> None:
    index = estimator.estimate(PlannedJob("index", {"collection": "msmarco-passage", "stemmer": "porter"}))
    # benchmarks/results/collection-size.txt says 278 s.
    assert index.cpu_seconds == pytest.approx(278, rel=0.01)
    assert index.written == pytest.approx(INDEX_BYTES * 278 * LUCENE_BYTES_PER_SECOND, rel=0.01)
    vectors = estimator.estimate(PlannedJob("encode", {"collection": "quora", "encoder": "bge-large"}))
    assert vectors.tokens == pytest.approx(522_931 * (11.44 * 1.35 + 3))
    assert vectors.written == 522_931 * 1024 * 2
    names = {"collection": "msmarco-passage", "split": "train", "retriever": "bge"}
    run = estimator.estimate(PlannedJob("retrieve_dense", names))
    assert (run.gpu_seconds, run.cpu_seconds, run.written) == (0, None, 502_939 * 1000 * 45)


def test_what_is_not_known_stays_open(estimator: Estimator) -> None:
    names = {"collection": "semanlink", "split": "test", "reranking": "bm25-top30", "training": "none"}
    assert estimator.estimate(PlannedJob("rerank", names | {"model": "minilm"})).gpu_seconds is None
    assert estimator.estimate(PlannedJob("pretrain", {"pretraining": "x", "model": "y"})).tokens is None


def test_a_printed_plan(estimator: Estimator) -> None:
    names = {"split": "test", "reranking": "bge-top1000", "training": "passage", "model": "opt-1.3b"}
    jobs = [PlannedJob("table", {"table": "t"}), PlannedJob("rerank", {"collection": "quora", **names})]
    rerank = reranked(estimator, "quora", "test", "opt-1.3b")
    assert rerank.gpu_seconds is not None
    lines = costs(jobs, estimator).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert cells[0] == ["job", "count", "tokens", "computed", "GPU hours", "CPU hours", "disk"]
    assert cells[2] == ["rerank", "1", "353 M", "178 M", f"{rerank.gpu_seconds / 3600:.1f}", "", "450 MB"]
    assert cells[3:5] == [["table", "1", "", "", "", "", ""], ["total", "2", *cells[2][2:]]]
    assert cells[-1][:4] == ["OPT-1.3B", "1.3B", "209 k", "measured"]
    # A job of which nothing is known leaves the sum open at its upper end.
    cut = costs([*jobs, PlannedJob("rerank", {"collection": "semanlink", **names})], estimator)
    assert "| rerank |     2 | > 353 M |" in cut
