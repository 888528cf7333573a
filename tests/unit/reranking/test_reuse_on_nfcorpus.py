"""Document reuse on real texts with trained weights; needs NFCorpus (SSMRANK_SHARED)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ssmrank.evaluation.metrics import evaluate
from ssmrank.io.pairs import pairs_of
from ssmrank.models.reranker import load_reranker
from ssmrank.reranking.engine import plan_work, reranked, score

SHARED = Path(os.environ.get("SSMRANK_SHARED", Path(__file__).resolve().parents[4] / "shared"))
NFCORPUS = SHARED / "collections/nfcorpus"
CPU = torch.device("cpu")
QUERIES, DOCUMENTS = 8, 8


def records(name):
    with (NFCORPUS / name).open(encoding="utf-8") as stream:
        return {record["_id"]: record for record in map(json.loads, stream)}


@pytest.fixture(scope="module")
def task():
    """Some test queries that all rank one pool of judged documents, and their judgments."""
    if not NFCORPUS.is_dir():
        pytest.skip("NFCorpus is not at hand")
    qrels: dict[str, dict[str, int]] = {}
    for line in (NFCORPUS / "qrels/test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        qrels.setdefault(query, {})[document] = int(grade)
    qrels = dict(list(qrels.items())[:QUERIES])
    texts, queries = records("corpus.jsonl"), records("queries.jsonl")
    judged = (document for documents in qrels.values() for document in list(documents)[:4])
    pool = list(dict.fromkeys(judged))[:DOCUMENTS]
    documents = {document: f"{texts[document]['title']} {texts[document]['text']}" for document in pool}
    run = {query: [(document, -float(place)) for place, document in enumerate(pool)] for query in qrels}
    return run, {query: queries[query]["text"] for query in qrels}, documents, qrels


@pytest.mark.parametrize("model", ["mamba1", "mamba2", "opt", "llama"])
def test_the_ranking_is_that_of_the_plain_path(task, model, root):
    run, queries, documents, qrels = task
    reranker = load_reranker(root / "models/minis" / model)
    tokens = dict(zip(documents, reranker.template.tokenize_documents(list(documents.values())), strict=True))
    pairs = pairs_of(run, DOCUMENTS)
    works = {share: plan_work(reranker, pairs, queries, tokens, 4096, share=share) for share in (True, False)}
    scores = {share: score(reranker, work, "fp32", CPU) for share, work in works.items()}
    assert works[True].tokens < works[False].tokens / 4
    assert np.abs(scores[True] - scores[False]).max() < 1e-5 * np.abs(scores[False]).max()
    values = [
        evaluate(qrels, reranked(run, pairs, scores[share]), ["nDCG@10"]).mean()["nDCG@10"] for share in (True, False)
    ]
    assert values[0] == pytest.approx(values[1], abs=5e-5)


@pytest.mark.parametrize("model", ["mamba2", "llama"])
def test_in_bf16_it_stays_within_the_noise_of_bf16(task, model, root):
    """bf16 limits the agreement: scores differ from float32's by a few hundredths, with and without reuse."""
    run, queries, documents, _ = task
    run = {query: ranking[:10] for query, ranking in run.items()}
    exact, found = None, {}
    ways = [("bf16", share, budget) for share in (True, False) for budget in (600, 4096)]
    for precision, share, budget in [("fp32", False, 4096), *ways]:
        reranker = load_reranker(root / "models/minis" / model)
        tokens = dict(zip(documents, reranker.template.tokenize_documents(list(documents.values())), strict=True))
        work = plan_work(reranker, pairs_of(run, 10), queries, tokens, budget, share=share)
        scores = score(reranker, work, precision, CPU)
        if precision == "fp32":
            exact = scores
        else:
            found[share, budget] = np.abs(scores - exact).max() / np.abs(exact).max()
    plain = found[False, 4096]
    assert 0 < plain < 0.05
    assert max(found.values()) < 3 * plain + 1e-3
