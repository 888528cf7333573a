"""Shared-prefix trees: what is computed once, and that each path from root to leaf is its pair's sequence."""

from __future__ import annotations

import numpy as np
import pytest

from ssmrank.io.pairs import Pair, Pairs
from ssmrank.models.templates import Template
from ssmrank.reranking.batches import divided, plan_batches
from ssmrank.reranking.prefix_tree import BRANCH_TOKENS, two_level_trees
from ssmrank.reranking.segments import PARENT, segment_tokens, whole_segments
from ssmrank.reranking.sequences import PairSequences
from ssmrank.reranking.tree_builder import MOST_LEVELS, PrefixTreeBuilder

HOSTILE = {
    "semicolon": "river; boat;",
    "spaces": "  mamba   scan  ",
    "combining": "e\u0301tat \u0301",
    "empty": "",
    "template": "document: fish; query: snow; [SEP] </s>",
    "long": "search engine lucene index " * 30,
}
QUERIES = {
    "q1": "mamba",
    "q2": "river boat; fish",
    "q3": "",
    "q4": "river boat",
    "q5": "mamba",
    "q6": "; query:",
    "q7": "state space models rank text passages and documents by relevance",
}


def sequences_of(tokenizer, documents, queries, max_length, pairs=None, kind="D", template=None):
    template = template or Template.of(tokenizer, kind)
    tokens = dict(zip(documents, template.tokenize_documents(list(documents.values())), strict=True))
    pairs = pairs or [Pair(query, document) for query in queries for document in documents]
    return PairSequences(template, max_length, Pairs.of(pairs), queries, tokens), pairs


def paths(batch, sequences):
    """The token ids that each pair of a batch reads in its tree."""
    for tree in batch.trees:
        ids, lengths = segment_tokens(sequences, tree.documents, tree.segments)
        assert lengths.sum() == tree.tokens
        tokens = np.split(ids, np.cumsum(lengths)[:-1])
        for end, pair in zip(tree.leaves, tree.pairs, strict=True):
            pieces = []
            while end >= 0:
                pieces.insert(0, tokens[end])
                end = tree.segments[end, PARENT]
            yield int(pair), np.concatenate(pieces)


ORDERS = ["document-first", "query-first", "query-document-query", "document-document-query"]


@pytest.mark.parametrize("max_length", [24, 40, 300])
@pytest.mark.parametrize("family", ["opt", "gpt-neox", "llama-3.2", None])
@pytest.mark.parametrize("budget", [30, 200, 10000])
@pytest.mark.parametrize("order", ORDERS)
def test_paths_are_the_sequences_of_their_pairs(
    byte_level_tokenizer, tiny_tokenizer, family, max_length, budget, order
):
    tokenizer = tiny_tokenizer if family is None else byte_level_tokenizer(family)
    queries = QUERIES if max_length > 40 else {query: QUERIES[query] for query in ("q1", "q3", "q5")}
    template = Template.of(tokenizer, "D", order)
    max_length *= template.query_copies
    sequences, pairs = sequences_of(tokenizer, HOSTILE, queries, max_length, template=template)
    expected = [
        template.join(
            template.tokenize_queries([QUERIES[pair.query]])[0],
            template.tokenize_documents([HOSTILE[pair.document]])[0],
            max_length,
        )
        for pair in pairs
    ]
    assert sequences.lengths.tolist() == [len(ids) for ids in expected]
    seen = []
    for batch in plan_batches(sequences, budget, True):
        assert batch.cost <= budget or batch.size == 1
        assert batch.tokens <= batch.cost
        ids, lengths = segment_tokens(
            sequences, sequences.document[batch.alone], whole_segments(sequences, batch.alone)
        )
        for pair, read in zip(batch.alone.tolist(), np.split(ids, np.cumsum(lengths)[:-1]), strict=False):
            assert read.tolist() == sequences[pair].tolist() == expected[pair].tolist()
        for pair, ids in paths(batch, sequences):
            assert ids.tolist() == expected[pair].tolist()
        packed, order = batch.pack()
        assert packed.input_ids[packed.last].tolist() == [expected[pair][-1] for pair in order]
        assert len(packed.input_ids) == batch.tokens
        seen.extend(order.tolist())
    assert sorted(seen) == list(range(len(pairs)))


@pytest.mark.parametrize("max_length", [24, 40, 300])
def test_trees_made_at_once_are_those_made_one_by_one(tiny_tokenizer, max_length):
    words, random = " ".join(HOSTILE.values()).split(), np.random.default_rng(max_length)
    documents = {f"d{n}": " ".join(random.choice(words, random.integers(1, 60))) for n in range(40)}
    queries = {f"q{n}": " ".join(random.choice(words[:4], random.integers(1, 6))) for n in range(12)}
    queries |= {f"r{n}": "river boat " + " ".join(random.choice(words, n)) for n in range(5)}
    pairs = [Pair(query, document) for query in queries for document in documents if random.random() < 0.6]
    sequences, _ = sequences_of(tiny_tokenizer, documents, queries, max_length, pairs)
    builder = PrefixTreeBuilder(sequences)
    groups = builder.groups()
    at_once = two_level_trees(sequences, groups)
    made = [(tree, builder.trees(group, 10**9)) for tree, group in zip(at_once, groups, strict=True) if tree]
    assert len(made) >= {24: 1, 40: 10, 300: len(groups)}[max_length]
    for tree, [other] in made:
        assert (tree.tokens, tree.cost) == (other.tokens, other.cost)
        names = ("documents", "segments", "leaves", "pairs")
        for one, two in ((getattr(tree, name), getattr(other, name)) for name in names):
            assert one.dtype == two.dtype and np.array_equal(one, two)


def test_shared_tokens_by_hand(tiny_tokenizer):
    # "document : " + 30 words + " ;" are 33 tokens, " query :" 2 more; each query adds its words, ";" and [SEP].
    documents, queries = {"d": "river " * 30}, {"a": "mamba", "b": "mamba scan", "c": "snow"}
    sequences, _ = sequences_of(tiny_tokenizer, documents, queries, 200)
    [batch] = plan_batches(sequences, 1000, True)
    assert batch.tokens == 35 + 3 + 4 + 3
    assert batch.cost == batch.tokens + BRANCH_TOKENS
    assert sum(batch.tokens for batch in plan_batches(sequences, 1000, False)) == 3 * 35 + 3 + 4 + 3


def test_shared_tokens_of_a_query_by_hand(tiny_tokenizer):
    # "; query : mamba ;" and " document :" are 7 tokens; a document adds its words and [SEP].
    documents = {f"d{n}": "river " * n for n in (5, 9, 12, 30)}
    template = Template.of(tiny_tokenizer, "D", "query-first")
    sequences, _ = sequences_of(tiny_tokenizer, documents, {"a": "mamba"}, 200, template=template)
    whole = 4 * 7 + 5 + 9 + 12 + 30 + 4
    # Three copies less are 21 tokens, and a kept state costs as much as 24.
    assert [batch.tokens for batch in plan_batches(sequences, 1000, True)] == [whole]
    queries = {"a": "mamba scan", "b": "snow"}
    sequences, _ = sequences_of(tiny_tokenizer, documents | {"e": "fish"}, queries, 200, template=template)
    [batch] = plan_batches(sequences, 1000, True)
    assert batch.tokens == 2 * (5 + 9 + 12 + 30 + 1 + 5) + 8 + 7
    assert batch.cost == batch.tokens + 2 * BRANCH_TOKENS
    # On both sides the query's second copy is read with each document.
    both = Template.of(tiny_tokenizer, "D", "query-document-query")
    sequences, _ = sequences_of(tiny_tokenizer, documents | {"e": "fish"}, {"a": "mamba scan"}, 200, template=both)
    [batch] = plan_batches(sequences, 1000, True)
    # "query : mamba scan ; document :" once; words, "; query : mamba scan ; [SEP]" five times.
    assert batch.tokens == 7 + 5 + 9 + 12 + 30 + 1 + 5 * 7


def test_shared_tokens_of_a_document_that_is_read_twice_by_hand(tiny_tokenizer):
    # "document : " + 20 words + " ;" are 23 tokens, " query :" 2 more; each query adds its words, ";" and [SEP].
    template = Template.of(tiny_tokenizer, "D", "document-document-query")
    queries = {"a": "mamba", "b": "mamba scan", "c": "snow", "d": "fish " * 17}
    sequences, _ = sequences_of(tiny_tokenizer, {"d": "river " * 20}, queries, 69, template=template)
    [batch] = plan_batches(sequences, 1000, True)
    # The last query leaves 48 tokens, so the others share 2 · 23 and it reads them too.
    assert batch.tokens == 2 * 23 + 2 + 3 + 4 + 3 + 19
    # In 66 tokens it leaves 45, less than two copies: they have 16 tokens each, and it shares nothing.
    sequences, _ = sequences_of(tiny_tokenizer, {"d": "river " * 20}, queries, 66, template=template)
    [batch] = plan_batches(sequences, 1000, True)
    assert batch.tokens == 2 * 23 + 2 + 3 + 4 + 3 + 2 * 16 + 2 + 19
    assert sequences.documents == ["d", "d"] and sequences.shortened.tolist() == [False, False, False, True]


def test_documents_that_are_cut_at_several_places_share_all_up_to_there(tiny_tokenizer):
    # A query of n words takes 4 + n of the 100 tokens, the separator one; 94, 91 and 86 are left for the document.
    words = ["river", "boat", "fish", "snow", "mamba"]
    queries = {f"{n}-{i}": " ".join([words[i % 5]] * n) for n in (1, 4, 9) for i in range(20)}
    sequences, _ = sequences_of(tiny_tokenizer, {"d": "engine " * 200}, queries, 100)
    [batch] = plan_batches(sequences, 100000, True)
    # The document once, as far as the longest reads, three times "; query :", and each query's words, ";" and [SEP].
    assert batch.tokens == 94 + 3 * 3 + 20 * (3 + 6 + 11)
    for pair, ids in paths(batch, sequences):
        assert ids.tolist() == sequences[pair].tolist()


def test_no_more_steps_than_allowed(tiny_tokenizer):
    queries = {f"{n}-{i}": "river " * n for n in range(1, 60) for i in range(30)}
    sequences, _ = sequences_of(tiny_tokenizer, {"d": "engine " * 500}, queries, 200)
    for batch in plan_batches(sequences, 10**6, True):
        assert len(batch.pack()[0].prefix_levels.inner) <= MOST_LEVELS + 1


def test_one_query_or_little_in_common_is_an_ordinary_sequence(tiny_tokenizer):
    documents = {"once": "river " * 50, "short": "fish"}
    pairs = [Pair("q1", "once"), Pair("q1", "short"), Pair("q2", "short")]
    sequences, _ = sequences_of(tiny_tokenizer, documents, QUERIES, 100, pairs)
    [batch] = plan_batches(sequences, 1000, True)
    assert sorted(batch.alone.tolist()) == [0, 1, 2]
    assert batch.pack()[0].prefix_levels is None


def test_memory_is_bounded_whatever_the_number_of_queries(tiny_tokenizer):
    queries = {f"q{i}": f"river boat {i}" for i in range(500)}
    sequences, pairs = sequences_of(tiny_tokenizer, {"d": "engine " * 60}, queries, 200)
    batches = plan_batches(sequences, 400, True)
    assert all(batch.cost <= 400 for batch in batches)
    assert sum(batch.size for batch in batches) == len(pairs)
    # Each batch repeats only the document.
    least = sum(len(ending) - 2 for ending in sequences.endings)
    assert sum(batch.tokens for batch in batches) <= least + len(batches) * 70


@pytest.mark.parametrize("order", ORDERS)
def test_divided_batches_hold_the_same_pairs_at_half_the_cost(tiny_tokenizer, order):
    template = Template.of(tiny_tokenizer, "D", order)
    sequences, _ = sequences_of(tiny_tokenizer, HOSTILE, QUERIES, 300, template=template)
    [batch] = plan_batches(sequences, 10000, True)
    parts = divided(batch)
    assert all(part.cost <= batch.cost // 2 or part.size == 1 for part in parts)
    order = np.concatenate([part.pack()[1] for part in parts])
    assert sorted(order.tolist()) == list(range(len(sequences)))
    single = parts[-1]
    while single.size > 1:
        single = divided(single)[0]
    assert divided(single) == [single]


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("E", None),
        ("E", "document-first"),
        ("D", "query-first"),
        ("D", "query-document-query"),
        ("E", "query-document-query"),
        ("D", "document-document-query"),
    ],
)
def test_packed_are_the_sequences_of_the_pairs(tiny_tokenizer, kind, order):
    template = Template.of(tiny_tokenizer, kind, order)
    max_length = 24 * template.query_copies * template.document_copies
    sequences, pairs = sequences_of(tiny_tokenizer, HOSTILE, QUERIES, max_length, template=template)
    assert sequences.shortened.any() and not sequences.shortened.all()
    for batch in plan_batches(sequences, 200, False):
        packed, order_of = batch.pack()
        for pair, ids in zip(order_of.tolist(), packed.input_ids.split(packed.lengths), strict=True):
            [query] = template.tokenize_queries([QUERIES[pairs[pair].query]])
            [document] = template.tokenize_documents([HOSTILE[pairs[pair].document]])
            assert ids.tolist() == template.join(query, document, max_length).tolist()
            assert len(ids) == sequences.lengths[pair]


def test_encoders_sequences(tiny_tokenizer):
    sequences, _ = sequences_of(tiny_tokenizer, HOSTILE, QUERIES, 24, kind="E", pairs=[Pair("q2", "long")])
    template = sequences.template
    [query], [document] = template.tokenize_queries([QUERIES["q2"]]), template.tokenize_documents([HOSTILE["long"]])
    assert sequences[0].tolist() == template.join(query, document, 24).tolist()
    assert sequences.lengths.tolist() == [24]
