from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmrank.errors import UserError
from ssmrank.io.pairs import pairs_of
from ssmrank.models.architectures import MODEL_TYPES
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


@pytest.mark.parametrize(("model_type", "kind"), [("bert", "E"), ("mamba2", "D")])
def test_maxp_is_the_best_of_the_passages(tiny_model, model_type, kind):
    reranker = reranker_of(tiny_model, model_type, kind, 60)
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


@pytest.mark.parametrize("model_type", ["mamba2", "bert"])
@pytest.mark.parametrize("passages", [None, PassageWindows(length=4, stride=3)])
def test_a_query_on_both_sides_shares_nothing(tiny_model, model_type, passages):
    plain = reranker_of(tiny_model, model_type, kind_of(model_type))
    settings = replace(plain.settings, max_length=60, template="query-document-query")
    reranker = Reranker(plain.backbone, plain.tokenizer, settings).eval()
    tokens = dict(zip(DOCUMENTS, reranker.template.tokenize_documents(list(DOCUMENTS.values())), strict=True))
    work = plan_work(reranker, pairs_of(RUN, 5), QUERIES, tokens, 10000, share=True)
    assert work.tokens == work.all_tokens
    reranked = rerank(reranker, RUN, QUERIES, DOCUMENTS, 4, 200, "fp32", CPU, passages)
    for query, ranking in reranked.items():
        for document, value in ranking:
            if passages is None:
                assert value == pytest.approx(reranker.score(QUERIES[query], [DOCUMENTS[document]])[0], abs=1e-5)
            assert np.isfinite(value)


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
