"""Scores from kept states of documents, compared with those of whole sequences."""

from __future__ import annotations

import logging
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmrank.errors import UserError
from ssmrank.models.reranker import Reranker, new_reranker
from ssmrank.models.templates import COPY_STEP
from ssmrank.reranking.document_prefixes import CUT_STEP, PairSplitter
from ssmrank.reranking.document_states import StateScorer
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.state_folder import StateFolder
from tiny_models import CAUSAL, kind_of, tiny_config

CPU = torch.device("cpu")
TWICE = "document-document-query"
WORDS = "mamba river snow fish engine boat mountain index state space attention scan lucene".split()
QUERIES = ["mamba", "river boat on a mountain", "", "what; query: fish", "snow " * 40]
DOCUMENTS = ["", "mamba state space models", "fish", "search engine; document: " * 3, "river boat fish " * 40]
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS]


def model_of(tiny_model, shape, max_length=60):
    torch.manual_seed(0)
    return new_reranker(tiny_model(shape), kind_of(shape), max_length).eval()


def state_scorer(
    tiny_model, shape="mamba2", max_length=60, token_budget=4000, budget=10**7, precision="fp32", **options
):
    scorer = Scorer(model_of(tiny_model, shape, max_length), precision, CPU)
    return StateScorer(scorer, token_budget, budget, **options)


def expected(tiny_model, shape, pairs, max_length=60):
    model = model_of(tiny_model, shape, max_length)
    return [model.score(query, [document])[0] for query, document in pairs]


def values(scored):
    return [pair.score for pair in scored]


def texts(count, seed=0):
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 50))) for _ in range(count)]


@pytest.mark.parametrize("shape", CAUSAL)
@pytest.mark.parametrize("token_budget", [1, 100, 4000])
def test_scores_are_those_of_each_pair_alone(tiny_model, shape, token_budget):
    scorer = state_scorer(tiny_model, shape, token_budget=token_budget)
    alone = expected(tiny_model, shape, PAIRS)
    assert values(scorer.score(PAIRS)) == pytest.approx(alone, abs=1e-5)
    again = scorer.score(PAIRS)
    assert values(again) == pytest.approx(alone, abs=1e-5)
    assert all(pair.cached for pair in again)


def read_twice(tiny_model, shape="mamba2", max_length=60):
    model = model_of(tiny_model, shape, max_length)
    return Reranker(model.backbone, model.tokenizer, replace(model.settings, template=TWICE)).eval()


@pytest.mark.parametrize("shape", ["mamba", "mamba2", "llama", "opt"])
@pytest.mark.parametrize("max_length", [60, 200])
def test_a_state_holds_both_copies_of_a_document_that_is_read_twice(tiny_model, shape, max_length):
    scorer = StateScorer(Scorer(read_twice(tiny_model, shape, max_length), "fp32", CPU), 4000, 10**7)
    model = read_twice(tiny_model, shape, max_length)
    alone = [model.score(query, [document])[0] for query, document in PAIRS]
    assert values(scorer.score(PAIRS)) == pytest.approx(alone, abs=1e-5)
    again = scorer.score(PAIRS)
    assert values(again) == pytest.approx(alone, abs=1e-5) and all(pair.cached for pair in again)
    [other] = scorer.score([("what is a mamba", "mamba state space models")])
    assert other.cached


@pytest.mark.parametrize("max_length", [33, 60, 200])
def test_two_parts_with_both_copies_are_the_joined_sequence(tiny_model, max_length):
    template = read_twice(tiny_model).template
    splitter = PairSplitter(template, max_length)
    for query, side in zip(QUERIES, splitter.queries(QUERIES), strict=True):
        for document, text in zip(splitter.documents(DOCUMENTS), DOCUMENTS, strict=True):
            prefix, suffix, long = splitter.split(side, document)
            whole = template.join(side, template.tokenize_documents([text])[0], max_length)
            assert np.array_equal(np.concatenate([prefix.tokens, suffix]), whole), (query, text)
            assert len(suffix) == len(side) - 2 + 1 and not long


def test_queries_of_similar_lengths_share_both_copies_of_a_cut_document(tiny_model):
    splitter = PairSplitter(read_twice(tiny_model).template, 200)
    [document] = splitter.documents(["river boat fish " * 200])
    queries = splitter.queries([" ".join(["fish"] * count) for count in range(1, 33)])
    prefixes = [splitter.split(query, document).prefix for query in queries]
    assert len({prefix.key for prefix in prefixes}) <= 1 + 32 // (2 * COPY_STEP)
    assert splitter.longest_prefix(document, len(queries[0])).key == prefixes[0].key


@pytest.mark.parametrize("order", ["query-first", "query-document-query"])
def test_a_model_that_reads_the_query_first_keeps_no_states(tiny_model, order, caplog):
    model = model_of(tiny_model, "mamba2")
    model = Reranker(model.backbone, model.tokenizer, replace(model.settings, template=order)).eval()
    scorer = StateScorer(Scorer(model, "fp32", CPU), 4000, 10**7)
    assert not scorer.keeps_states and f"its template, {order}, does not begin with the document" in caplog.text
    alone = [model.score(query, [document])[0] for query, document in PAIRS]
    assert values(scorer.score(PAIRS)) == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("max_length", [20, 24, 33, 60, 200])
def test_two_parts_are_the_joined_sequence(tiny_model, max_length):
    template = model_of(tiny_model, "mamba2").template
    splitter = PairSplitter(template, max_length)
    for query, side in zip(QUERIES, splitter.queries(QUERIES), strict=True):
        for document, text in zip(splitter.documents(DOCUMENTS), DOCUMENTS, strict=True):
            split = [splitter.split(side, document, steps) for steps in (0, 1, 2)]
            cut = len(template.tokenize_documents([text])[0]) > template.room(len(side), max_length)
            assert split[0].long or not cut
            if max_length == 200 and cut:
                assert len(split[2].prefix.tokens) == len(split[0].prefix.tokens) - 2 * CUT_STEP
            whole = template.join(side, template.tokenize_documents([text])[0], max_length)
            for prefix, suffix, _ in split:
                assert np.array_equal(np.concatenate([prefix.tokens, suffix]), whole), (query, text)
                assert len(prefix.tokens) and len(suffix)


def test_queries_of_similar_lengths_share_a_cut_document(tiny_model):
    template = model_of(tiny_model, "mamba2").template
    splitter = PairSplitter(template, 200)
    [document] = splitter.documents(["river boat fish " * 200])
    queries = splitter.queries([" ".join(["fish"] * count) for count in range(1, 33)])
    prefixes = [splitter.split(query, document).prefix for query in queries]
    assert len({prefix.key for prefix in prefixes}) <= 1 + 32 // CUT_STEP
    assert all(len(prefix.tokens) % CUT_STEP == 0 for prefix in prefixes)
    assert splitter.longest_prefix(document, len(queries[0])).key == prefixes[0].key
    [whole] = splitter.documents(["fish"])
    assert splitter.longest_prefix(whole, 9).key == splitter.split(queries[5], whole).prefix.key


def test_a_query_uses_a_shorter_state_of_a_cut_document(tiny_model):
    scorer = state_scorer(tiny_model)
    document = "river boat fish " * 40
    pairs = [(" ".join(["snow"] * count), document) for count in (20, 3)]
    alone = expected(tiny_model, "mamba2", pairs)
    assert scorer.score(pairs[:1])[0] == (pytest.approx(alone[0], abs=1e-5), False)
    assert scorer.score(pairs[1:])[0] == (pytest.approx(alone[1], abs=1e-5), True)
    assert scorer.stats().states == 1


def test_a_document_is_computed_once(tiny_model):
    scorer = state_scorer(tiny_model)
    first = scorer.score([("mamba", "fish"), ("river", "fish"), ("mamba", "boat"), ("mamba", "fish")])
    assert [pair.cached for pair in first] == [False] * 4
    assert first[0] == first[3]
    stats = scorer.stats()
    assert (stats.hits, stats.misses, stats.states, stats.evictions) == (0, 2, 2, 0)
    second = scorer.score([("snow", "fish"), ("snow", "index")])
    assert [pair.cached for pair in second] == [True, False]
    stats = scorer.stats()
    assert (stats.hits, stats.misses, stats.states) == (1, 3, 3)
    assert 0 < stats.bytes <= stats.budget
    assert scorer.score([]) == []


def size_of_state(tiny_model, shape, document):
    scorer = state_scorer(tiny_model, shape)
    scorer.score([("fish", document)])
    return scorer.stats().bytes


@pytest.mark.parametrize("shape", ["mamba", "mamba2", "llama"])
def test_the_least_recently_used_state_goes_first(tiny_model, shape):
    # A budget must have room for one state of the most tokens, which for attention is that of several short ones.
    max_length = 24
    documents = ["fish " * 8, "boat " * 8, "snow " * 8]
    size = size_of_state(tiny_model, shape, documents[0])
    scorer = state_scorer(tiny_model, shape, max_length=max_length, budget=int(2.9 * size))
    one, two, three = documents
    scorer.score([("fish", one), ("fish", two)])
    scorer.score([("fish", one)])
    scorer.score([("fish", three)])
    assert scorer.stats().evictions == 1
    assert [scorer.score([("river", text)])[0].cached for text in (one, three)] == [True, True]
    assert scorer.score([("river", two)])[0].cached is False
    assert scorer.stats().bytes <= scorer.stats().budget


@pytest.mark.parametrize("shape", ["mamba", "mamba2", "llama"])
def test_more_documents_than_the_budget_holds(tiny_model, shape):
    pairs = [(query, document) for document in texts(30) for query in ("fish", "mamba scan")]
    size = size_of_state(tiny_model, shape, " ".join(WORDS * 5))
    scorer = state_scorer(tiny_model, shape, budget=3 * size)
    alone = expected(tiny_model, shape, pairs)
    for _ in range(2):
        assert values(scorer.score(pairs)) == pytest.approx(alone, abs=1e-5)
        assert scorer.stats().bytes <= scorer.stats().budget
    assert scorer.stats().evictions > 30


def test_a_budget_without_room_for_one_state_is_refused(tiny_model):
    with pytest.raises(
        UserError, match=r"state_cache 100 B: has no room for one document's state; give at least .* KB"
    ):
        state_scorer(tiny_model, budget=100)


def test_a_budget_larger_than_any_memory_is_refused(tiny_model):
    with pytest.raises(UserError, match=r"state_cache 1e\+06 TB: the device has no such memory; give less"):
        state_scorer(tiny_model, budget=10**18)


@pytest.mark.parametrize("shape", ["mamba2", "llama"])
def test_scores_do_not_depend_on_what_came_before(tiny_model, shape):
    generator = random.Random(1)
    pool = [(query, document) for query in QUERIES for document in texts(20)]
    scorer = state_scorer(tiny_model, shape, budget=5 * size_of_state(tiny_model, shape, " ".join(WORDS * 5)))
    alone = dict(zip(pool, expected(tiny_model, shape, pool), strict=True))
    for _ in range(15):
        pairs = generator.choices(pool, k=generator.randint(1, 30))
        assert values(scorer.score(pairs)) == pytest.approx([alone[pair] for pair in pairs], abs=1e-5)


@pytest.mark.parametrize("shape", ["mamba2", "llama"])
def test_threads(tiny_model, shape):
    pool = [(query, document) for query in QUERIES for document in texts(12)]
    alone = dict(zip(pool, expected(tiny_model, shape, pool), strict=True))
    scorer = state_scorer(tiny_model, shape, budget=4 * size_of_state(tiny_model, shape, " ".join(WORDS * 5)))

    def ask(seed):
        pairs = random.Random(seed).choices(pool, k=10)
        return pairs, values(scorer.score(pairs))

    with ThreadPoolExecutor(8) as threads:
        for pairs, scores in threads.map(ask, range(40)):
            assert scores == pytest.approx([alone[pair] for pair in pairs], abs=1e-5)
    assert scorer.stats().bytes <= scorer.stats().budget


def test_a_failed_pass_leaves_no_state(tiny_model, monkeypatch):
    scorer = state_scorer(tiny_model)
    scorer.score([("fish", "boat")])
    before = scorer.stats()
    with monkeypatch.context() as patch:
        patch.setattr(type(scorer._scorer.reranker), "scores", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scorer.score([("fish", "a new document")])
    assert (scorer.stats().states, scorer.stats().bytes) == (before.states, before.bytes)
    pairs = [("fish", "a new document"), ("fish", "boat")]
    assert values(scorer.score(pairs)) == pytest.approx(expected(tiny_model, "mamba2", pairs), abs=1e-5)


@pytest.mark.parametrize("shape", ["mamba", "mamba2-wide", "llama", "opt"])
def test_bf16_differs_no_more_than_bf16_itself(tiny_model, shape):
    alone = np.array(expected(tiny_model, shape, PAIRS))
    model = Scorer(model_of(tiny_model, shape), "bf16", CPU).reranker
    with torch.autocast("cpu", torch.bfloat16):
        noise = np.abs([model.score(query, [text])[0] for query, text in PAIRS] - alone).max()
    for dtype, factor in ((None, 2), (torch.bfloat16, 3)):
        scorer = state_scorer(tiny_model, shape, precision="bf16", state_dtype=dtype)
        for _ in range(2):
            assert np.abs(np.array(values(scorer.score(PAIRS))) - alone).max() < factor * noise


@pytest.mark.parametrize("shape", ["bert", "modernbert"])
def test_encoders_say_that_they_keep_no_states(tiny_model, shape, caplog):
    with caplog.at_level(logging.WARNING, logger="ssmrank"):
        scorer = state_scorer(tiny_model, shape, name="a/model")
    assert not scorer.keeps_states
    assert [record.getMessage() for record in caplog.records if record.name.startswith("ssmrank")] == [
        f"a/model keeps no states of documents: {tiny_config(shape)['model_type']} with pooling first does not read a "
        "document independently of its query"
    ]
    for _ in range(2):
        scored = scorer.score(PAIRS)
        assert values(scored) == pytest.approx(expected(tiny_model, shape, PAIRS), abs=1e-5)
        assert not any(pair.cached for pair in scored)
    assert scorer.stats() is None


@pytest.mark.parametrize("shape", ["bert", "modernbert"])
def test_encoders_have_no_states_to_load(tiny_model, shape, tmp_path):
    with pytest.raises(UserError, match="a/model keeps no states of documents, so none can be loaded: "):
        state_scorer(tiny_model, shape, name="a/model", folder=StateFolder(tmp_path, "digest", "fp32"))


def test_half_of_a_surrogate_pair_is_refused(tiny_model):
    with pytest.raises(UserError, match="half of a surrogate pair"):
        state_scorer(tiny_model).score([("fish", "\ud800")])
