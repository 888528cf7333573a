"""With `deterministic: batch` a pair's score has the same bits whatever else is computed, and however."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmrank.errors import UserError
from ssmrank.io.pairs import Pairs
from ssmrank.models.reranker import new_reranker
from ssmrank.reranking.batches import divided
from ssmrank.reranking.engine import PassageWindows, Work, plan_work, score
from ssmrank.reranking.fixed_trees import GRID
from tiny_models import SHAPES, kind_of

CPU = torch.device("cpu")
WORDS = "mamba state space models river boat fish search engine lucene index snow mountain scan".split()
LONGEST = 90


def texts(prefix, count, most, seed):
    random = np.random.default_rng(seed)
    return {f"{prefix}{n}": " ".join(random.choice(WORDS, random.integers(1, most))) for n in range(count)}


DOCUMENTS = texts("d", 5, 60, 1) | {"d-empty": "", "d-long": "snow fish " * 70}
QUERIES = texts("q", 4, 9, 2) | {"q-long": "river boat " * 45}
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS if (len(query) + len(document)) % 5]


@pytest.fixture
def threads():
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


def planned(reranker, pairs, budget, share, deterministic="batch", passages=None):
    sides = reranker.template.tokenize_documents(list(DOCUMENTS.values()))
    tokens = dict(zip(DOCUMENTS, sides, strict=True))
    return plan_work(
        *(reranker, Pairs.of(pairs), QUERIES, tokens, budget, passages, share), deterministic=deterministic
    )


def scores_of(reranker, work, precision="fp32"):
    found = score(reranker, work, precision, CPU, deterministic="batch").view(np.int32)
    return dict(zip(work.pairs, found.tolist(), strict=True))


def reranker_of(tiny_model, shape):
    torch.manual_seed(0)
    return new_reranker(tiny_model(shape), kind_of(shape), LONGEST).eval()


IN_HALF = ["bert", "llama", "mamba", "mamba2-wide", "mamba3", "granitemoehybrid"]


@pytest.mark.parametrize(("shape", "precision"), [*((s, "fp32") for s in SHAPES), *((s, "bf16") for s in IN_HALF)])
@pytest.mark.usefixtures("threads")
def test_bits_do_not_depend_on_neighbours_budgets_reuse_and_threads(tiny_model, shape, precision):
    reranker, random = reranker_of(tiny_model, shape), np.random.default_rng(0)
    expected = scores_of(reranker, planned(reranker, PAIRS, 10000, True), precision)
    assert len(set(expected.values())) > len(PAIRS) // 2
    for trial, budget in enumerate((1, 130, 700)):
        torch.set_num_threads(1 + trial % 3)
        chosen = random.permutation(len(PAIRS))[: random.integers(2, len(PAIRS))].tolist()
        pairs = [PAIRS[place] for place in chosen]
        got = scores_of(reranker, planned(reranker, pairs, budget, share=trial % 2 == 0), precision)
        assert got == {pair: expected[pair] for pair in got}


def test_bits_of_a_mean_of_states_do_not_depend_on_the_batch(tiny_model):
    reranker = reranker_of(tiny_model, "bert")
    first = score(reranker, planned(reranker, PAIRS, 500, True), "fp32", CPU)
    reranker.settings = replace(reranker.settings, pooling="mean")
    usual = score(reranker, planned(reranker, PAIRS, 500, True), "fp32", CPU)
    expected = scores_of(reranker, planned(reranker, PAIRS, 500, True))
    assert np.abs(np.array(list(expected.values()), dtype=np.int32).view(np.float32) - usual).max() < 1e-5
    assert np.abs(first - usual).max() > 1e-3
    assert scores_of(reranker, planned(reranker, PAIRS[::3], 100, True)).items() <= expected.items()


@pytest.mark.parametrize("shape", ["bert", "mamba2"])
def test_bits_do_not_depend_on_how_passages_are_batched(tiny_model, shape):
    reranker, windows = reranker_of(tiny_model, shape), PassageWindows(20, 7)
    expected = scores_of(reranker, planned(reranker, PAIRS, 10000, True, passages=windows))
    assert scores_of(reranker, planned(reranker, PAIRS[::3], 200, False, passages=windows)).items() <= expected.items()


@pytest.mark.parametrize("shape", ["bart", "gpt_neox", "llama", "mamba", "mamba2-wide", "modernbert", "opt"])
def test_scores_are_those_without_the_key_up_to_rounding(tiny_model, shape):
    reranker = reranker_of(tiny_model, shape)
    usual = score(reranker, planned(reranker, PAIRS, 500, True, None), "fp32", CPU)
    fixed = score(reranker, planned(reranker, PAIRS, 500, True), "fp32", CPU, deterministic="batch")
    assert np.abs(usual - fixed).max() < 1e-5


def test_each_sequence_is_divided_by_itself_alone(tiny_model):
    reranker = reranker_of(tiny_model, "mamba2")
    for share in (True, False):
        work = planned(reranker, PAIRS, 400, share)
        seen = []
        for batch in work.batches:
            packed, pairs = batch.pack()
            paths = packed._paths if packed.prefix_levels is None else packed._paths[-len(pairs) :]
            for pair, path in zip(pairs.tolist(), paths, strict=True):
                tokens = np.concatenate([packed.input_ids[first:end].numpy() for first, end in path])
                assert np.array_equal(tokens, work.sequences[pair])
                *roots, _ = path
                cut, head = work.sequences.cut[pair], len(reranker.template.query_head())
                kept = work.sequences.whole[pair]
                before = len(reranker.template.before)
                assert [end - first for first, end in roots] == [before + (kept // GRID * GRID if cut else kept + head)]
                seen.append(pair)
        assert sorted(seen) == list(range(len(PAIRS)))


def test_reuse_still_computes_fewer_tokens(tiny_model):
    reranker = reranker_of(tiny_model, "mamba2")
    usual, fixed, apart = (
        planned(reranker, PAIRS, 10000, share, key).tokens
        for share, key in ((True, None), (True, "batch"), (False, "batch"))
    )
    assert usual <= fixed < 0.7 * apart


def test_a_batch_that_does_not_fit_is_divided_at_the_same_places(tiny_model):
    reranker = reranker_of(tiny_model, "mamba2")
    work = planned(reranker, PAIRS, 10000, True)
    smaller = [part for batch in work.batches for half in divided(batch) for part in divided(half)]
    assert len(smaller) >= 4 * len(work.batches) - 1
    again = Work(work.pairs, work.sequences, work.owners, smaller)
    assert scores_of(reranker, again) == scores_of(reranker, work)


def test_what_cannot_be_promised_is_refused(tiny_model):
    reranker = reranker_of(tiny_model, "opt")
    work = planned(reranker, PAIRS, 400, True)
    with pytest.raises(UserError, match="deterministic batch: products of 8-bit floats depend on the batch"):
        score(reranker, work, "fp8", CPU, deterministic="batch")
    with pytest.raises(UserError, match="attention of opt in fp32 on a GPU depends on the batch; set precision bf16"):
        score(reranker, work, "fp32", torch.device("cuda"), deterministic="batch")
