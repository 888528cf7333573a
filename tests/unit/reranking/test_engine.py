from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmrank.errors import UserError
from ssmrank.io.pairs import pairs_of
from ssmrank.kernels import dispatch
from ssmrank.kernels.products import cpu
from ssmrank.models import fast_products
from ssmrank.models.architectures import MODEL_TYPES
from ssmrank.models.backbones import scored_forward
from ssmrank.models.reranker import Reranker, new_reranker
from ssmrank.reranking.engine import PassageWindows, plan_work, rerank, score
from ssmrank.reranking.state import RerankingState
from tiny_models import is_causal, kind_of

CPU = torch.device("cpu")
QUERIES = {"q1": "mamba", "q2": "river boat", "q3": "nothing found", "q4": "mamba scan", "q5": "fish", "q6": "snow"}
DOCUMENTS = {
    "d1": "mamba state space models",
    "d2": "river boat fish",
    "d3": "search engine lucene index " * 5,
    "d4": "",
    "d5": "snow mountain; query: fish; " * 3,
}
RUN = {
    "q1": [("d3", 3.0), ("d1", 2.0), ("d2", 1.0), ("d5", 0.5), ("d4", 0.4)],
    "q2": [("d2", 9.0), ("d1", 8.0), ("d3", 7.0), ("d5", 6.0)],
    "q3": [],
    "q4": [("d3", 1.0), ("d5", 0.5), ("d2", 0.4)],
    "q5": [("d5", 1.0), ("d3", 0.5)],
    "q6": [("d3", 1.0), ("d5", 0.5), ("d1", 0.1)],
}
SHAPES = [("bert", "E"), *((name, "D") for name in MODEL_TYPES if is_causal(name))]


def reranker_of(tiny_model, model_type, kind, max_length=24):
    torch.manual_seed(0)
    return new_reranker(tiny_model(model_type), kind, max_length).eval()


@pytest.mark.parametrize(("model_type", "kind"), SHAPES)
@pytest.mark.parametrize("token_budget", [1, 60, 10000])
@pytest.mark.parametrize("max_length", [24, 60])
def test_scores_are_those_of_each_pair_alone(tiny_model, model_type, kind, token_budget, max_length):
    reranker = reranker_of(tiny_model, model_type, kind, max_length)
    reranked = rerank(reranker, RUN, QUERIES, DOCUMENTS, 4, token_budget, "fp32", CPU)
    assert list(reranked) == list(RUN)
    for query, ranking in reranked.items():
        assert [document for document, _ in ranking] == [document for document, _ in RUN[query][:4]]
        for document, value in ranking:
            assert value == pytest.approx(reranker.score(QUERIES[query], [DOCUMENTS[document]])[0], abs=1e-5)


@pytest.mark.parametrize(("model_type", "kind"), SHAPES[1:])
def test_sharing_computes_fewer_tokens_for_the_same_scores(tiny_model, model_type, kind):
    reranker = reranker_of(tiny_model, model_type, kind, 60)
    tokens = dict(zip(DOCUMENTS, reranker.template.tokenize_documents(list(DOCUMENTS.values())), strict=True))
    shared, plain = (
        plan_work(reranker, pairs_of(RUN, 5), QUERIES, tokens, 10000, share=share) for share in (True, False)
    )
    assert plain.tokens == plain.all_tokens == shared.all_tokens
    assert shared.tokens < 0.6 * plain.tokens
    difference = score(reranker, shared, "fp32", CPU) - score(reranker, plain, "fp32", CPU)
    assert np.abs(difference).max() < 1e-5


def test_a_run_of_another_split_is_named(tiny_model):
    with pytest.raises(UserError, match="query q8: in the run, but not in the collection's split"):
        rerank(reranker_of(tiny_model, "bert", "E"), {"q8": [("d1", 1.0)]}, QUERIES, DOCUMENTS, 2, 100, "fp32", CPU)


ORDERS = ["query-first", "query-document-query", "document-document-query"]


def in_order(reranker, order, max_length=60):
    """The reranker with the input in another order."""
    settings = replace(reranker.settings, max_length=max_length, template=order)
    return Reranker(reranker.backbone, reranker.tokenizer, settings).eval()


@pytest.mark.parametrize(("model_type", "kind"), SHAPES[1:])
@pytest.mark.parametrize("order", ORDERS)
def test_each_order_shares_what_it_can_for_the_same_scores(tiny_model, model_type, kind, order):
    """In float64, so that a difference that is not of rounding shows."""
    reranker = in_order(reranker_of(tiny_model, model_type, kind), order).double()
    run = {query: [*((document, 1.0) for document in DOCUMENTS)] for query in QUERIES}
    tokens = dict(zip(DOCUMENTS, reranker.template.tokenize_documents(list(DOCUMENTS.values())), strict=True))
    queries = {query: f"{text} on the mountain of snow" for query, text in QUERIES.items()}
    shared, plain = (
        plan_work(reranker, pairs_of(run, 5), queries, tokens, 10000, share=share) for share in (True, False)
    )
    assert plain.tokens == plain.all_tokens == shared.all_tokens
    assert shared.tokens < {"document-document-query": 0.6}.get(order, 0.85) * plain.tokens
    found = [scores_in_float64(reranker, work) for work in (shared, plain)]
    assert np.abs(found[0] - found[1]).max() < 1e-6 * np.ptp(found[1])


def scores_in_float64(reranker, work):
    scores = np.empty(len(work.pairs))
    for batch in work.batches:
        packed, pairs = batch.pack()
        with torch.inference_mode():
            states = scored_forward(reranker.backbone, packed, "last")
            scores[pairs] = reranker.head(states.double()).squeeze(-1).numpy()
    return scores


@pytest.mark.parametrize("order", [*ORDERS[:2], None])
def test_encoders_and_means_share_nothing(tiny_model, order):
    for model_type, pooling in (("bert", "first"), ("mamba2", "mean")):
        plain = reranker_of(tiny_model, model_type, kind_of(model_type), 60)
        settings = replace(plain.settings, template=order, pooling=pooling)
        reranker = Reranker(plain.backbone, plain.tokenizer, settings).eval()
        tokens = dict(zip(DOCUMENTS, reranker.template.tokenize_documents(list(DOCUMENTS.values())), strict=True))
        work = plan_work(reranker, pairs_of(RUN, 5), QUERIES, tokens, 10000)
        assert work.tokens == work.all_tokens


@pytest.mark.parametrize("model_type", ["mamba2", "llama", "bert"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("max_length", [40, 100])
def test_scores_in_each_order_are_those_of_each_pair_alone(tiny_model, model_type, order, max_length):
    kind = kind_of(model_type)
    if kind != "D" and order == "document-document-query":
        return
    reranker = in_order(reranker_of(tiny_model, model_type, kind), order, max_length)
    for budget in (60, 10000):
        for query, ranking in rerank(reranker, RUN, QUERIES, DOCUMENTS, 4, budget, "fp32", CPU).items():
            for document, value in ranking:
                assert value == pytest.approx(reranker.score(QUERIES[query], [DOCUMENTS[document]])[0], abs=1e-5)


@pytest.mark.parametrize(
    ("model_type", "kind", "order"),
    [("bert", "E", "query-first"), *(("mamba2", "D", order) for order in ["document-first", *ORDERS])],
)
def test_maxp_is_the_best_of_the_passages(tiny_model, model_type, kind, order):
    reranker = in_order(reranker_of(tiny_model, model_type, kind), order)
    words = "mamba river snow fish engine boat mountain index state space".split()
    documents = {"long": " ".join(words), "short": "river boat"}
    run = {"q2": [("long", 2.0), ("short", 1.0)], "q5": [("long", 1.0)]}
    reranked = rerank(reranker, run, QUERIES, documents, 10, 1000, "fp32", CPU, PassageWindows(length=4, stride=3))
    # Every word is a token. Windows have four words and start three apart; the last one ends with the document.
    windows = [" ".join(words[start : start + 4]) for start in (0, 3, 6)]
    for query in run:
        expected = max(reranker.score(QUERIES[query], windows))
        assert dict(reranked[query])["long"] == pytest.approx(expected, abs=1e-5)
    assert dict(reranked["q2"])["short"] == pytest.approx(reranker.score("river boat", ["river boat"])[0], abs=1e-5)


@pytest.mark.parametrize("order", ["document-first", *ORDERS])
def test_a_score_in_each_order_does_not_depend_on_its_batch(tiny_model, order):
    reranker = in_order(reranker_of(tiny_model, "mamba2", "D"), order, 40)
    tokens = dict(zip(DOCUMENTS, reranker.template.tokenize_documents(list(DOCUMENTS.values())), strict=True))
    pairs = pairs_of(RUN, 5)
    found = [
        score(
            reranker,
            plan_work(reranker, some, QUERIES, tokens, budget, share=share, deterministic="batch"),
            *("fp32", CPU),
            deterministic="batch",
        )
        for some, budget, share in ((pairs, 10000, True), (pairs, 60, True), (pairs, 10000, False))
    ]
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


def work_of(reranker, budget=60):
    tokens = dict(zip(DOCUMENTS, reranker.template.tokenize_documents(list(DOCUMENTS.values())), strict=True))
    return plan_work(reranker, pairs_of(RUN, 5), QUERIES, tokens, budget)


def test_goes_on_from_finished_parts_with_the_same_scores(tiny_model, tmp_path, monkeypatch):
    whole = score(
        reranker_of(tiny_model, "mamba2", "D", 40), work_of(reranker_of(tiny_model, "mamba2", "D", 40)), "fp32", CPU
    )
    reranker = reranker_of(tiny_model, "mamba2", "D", 40)
    work = work_of(reranker)
    assert len(work.batches) > 4
    state = RerankingState(tmp_path / "parts", "one")
    state.begin()
    forward, calls = Reranker.scores, []

    def dies(self, packed):
        calls.append(packed)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, packed)

    monkeypatch.setattr(Reranker, "scores", dies)
    with pytest.raises(KeyboardInterrupt):
        score(reranker, work, "fp32", CPU, state)
    finished = len(state.finished())
    assert 2 <= finished <= 3
    # As after a kill in the middle of writing.
    path = tmp_path / "parts" / "0.scores"
    path.write_bytes(path.read_bytes()[:-5])
    calls.clear()
    calls.extend([None] * 100)
    resumed = score(reranker, work, "fp32", CPU, state)
    assert len(calls) - 100 == len(work.batches) - (finished - 1)
    assert resumed.tobytes() == whole.tobytes()
    # What is written after the damaged end counts, and everything fits together again.
    assert score(reranker, work, "fp32", CPU, state).tobytes() == whole.tobytes()


def test_parts_of_other_inputs_are_removed(tmp_path):
    state = RerankingState(tmp_path / "parts", "one")
    state.begin()
    state.add(0, 3, np.array([1, 2]), np.array([0.5, 0.25]))
    again = RerankingState(tmp_path / "parts", "one")
    again.begin()
    [(number, (pairs, scores))] = again.finished().items()
    assert (number, pairs.tolist(), scores.tolist()) == (3, [1, 2], [0.5, 0.25])
    other = RerankingState(tmp_path / "parts", "two")
    other.begin()
    assert other.finished() == {}


@pytest.mark.parametrize("left", [None, b"", b"\xff"])
def test_parts_that_no_fingerprint_names_are_removed(tmp_path, left):
    state = RerankingState(tmp_path / "parts", "one")
    state.begin()
    state.add(0, 3, np.array([1, 2]), np.array([0.5, 0.25]))
    (tmp_path / "parts/fingerprint").unlink()
    if left is not None:
        (tmp_path / "parts/fingerprint").write_bytes(left)
    state.begin()
    assert state.finished() == {}


def test_shares_of_several_processes_are_the_whole(tiny_model, tmp_path):
    reranker = reranker_of(tiny_model, "mamba", "D", 40)
    work = work_of(reranker)
    whole = score(reranker, work, "fp32", CPU)
    state = RerankingState(tmp_path / "parts", "one")
    state.begin()
    for process in range(3):
        score(reranker, work, "fp32", CPU, state, process, 3)
    merged = np.full(len(work.sequences), np.nan, dtype=np.float32)
    for pairs, scores in state.finished().values():
        merged[pairs] = scores
    assert merged.tobytes() == whole.tobytes()


@pytest.mark.parametrize("model_type", ["mamba2", "llama"])
def test_too_little_memory_halves_the_batches(tiny_model, monkeypatch, caplog, model_type):
    reranker = reranker_of(tiny_model, model_type, "D", 40)
    work = work_of(reranker, 10000)
    expected = score(reranker, work, "fp32", CPU)
    forward, sizes = Reranker.scores, []

    def small(self, packed):
        sizes.append(len(packed.input_ids))
        if sizes[-1] > 70:
            raise torch.OutOfMemoryError
        return forward(self, packed)

    monkeypatch.setattr(Reranker, "scores", small)
    with caplog.at_level(logging.WARNING):
        assert np.abs(score(reranker, work, "fp32", CPU) - expected).max() < 1e-5
    assert sum(size > 70 for size in sizes) <= 4  # a size that did not fit once is not tried again
    assert "does not suffice: using batches of" in caplog.text


def test_a_pair_too_large_for_the_memory_is_named(tiny_model, monkeypatch):
    def never(self, packed):
        raise torch.OutOfMemoryError

    reranker = reranker_of(tiny_model, "mamba2", "D", 40)
    work = work_of(reranker)
    monkeypatch.setattr(Reranker, "scores", never)
    with pytest.raises(UserError, match=r"document d\d: its \d+ tokens do not fit"):
        score(reranker, work, "fp32", CPU)


def test_scores_that_are_no_numbers_are_named(tiny_model):
    reranker = reranker_of(tiny_model, "bert", "E")
    torch.nn.init.constant_(reranker.head.bias, float("nan"))
    with pytest.raises(UserError, match="score of query q1, document d3 is nan"):
        rerank(reranker, RUN, QUERIES, DOCUMENTS, 2, 100, "fp32", CPU)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_scores_by_the_loops_of_products_are_those_of_the_library(tiny_model, monkeypatch, model_type):
    reranker = reranker_of(tiny_model, model_type, kind_of(model_type), 60)
    rows, product = [], cpu.product
    monkeypatch.setattr(cpu, "product", lambda x, *rest: rows.append(len(x)) or product(x, *rest))
    for module in (dispatch, fast_products):
        monkeypatch.setattr(module, "library_is_slow", lambda: True)
    reranked = rerank(reranker, RUN, QUERIES, DOCUMENTS, 4, 1000, "fp32", CPU)
    assert len(rows) >= 4
    before = len(rows)
    for query, ranking in reranked.items():
        for document, value in ranking:
            assert value == pytest.approx(reranker.score(QUERIES[query], [DOCUMENTS[document]])[0], abs=1e-5)
    assert len(rows) == before
