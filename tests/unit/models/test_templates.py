from __future__ import annotations

import itertools

import numpy as np
import pytest

from ssmrank.errors import UserError
from ssmrank.models.templates import Template


def text_of(template, ids):
    return " ".join(template.tokenizer.convert_ids_to_tokens(ids.tolist()))


def test_decoder_template(tiny_tokenizer):
    template = Template.of(tiny_tokenizer, "D")
    [query], [document] = template.tokenize_queries(["mamba scan"]), template.tokenize_documents(["state space"])
    joined = template.join(query, document, 64)
    assert text_of(template, joined) == "document : state space ; query : mamba scan ; [SEP]"


@pytest.mark.parametrize("kind", ["E", "ED"])
def test_encoder_template(tiny_tokenizer, kind):
    template = Template.of(tiny_tokenizer, kind)
    [query], [document] = template.tokenize_queries(["mamba scan"]), template.tokenize_documents(["state space"])
    joined = template.join(query, document, 64)
    assert text_of(template, joined) == "[CLS] ; query : mamba scan ; document : state space"


def test_the_document_is_cut_and_the_query_never(tiny_tokenizer):
    decoder, encoder = Template.of(tiny_tokenizer, "D"), Template.of(tiny_tokenizer, "E")
    text = "state space models rank text passages"
    for template, expected in [
        (decoder, "document : state space ; query : mamba scan ; [SEP]"),
        (encoder, "[CLS] ; query : mamba scan ; document : state space"),
    ]:
        [query], [document] = template.tokenize_queries(["mamba scan"]), template.tokenize_documents([text])
        joined = template.join(query, document, len(expected.split()))
        assert text_of(template, joined) == expected


def test_every_length_keeps_the_query_whole(tiny_tokenizer):
    for kind in ("D", "E"):
        template = Template.of(tiny_tokenizer, kind)
        [query] = template.tokenize_queries(["mamba scan"])
        [document] = template.tokenize_documents(["state space models rank text passages"])
        whole = template.join(query, document, 100)
        for max_length in range(len(query) + 4, len(whole) + 3):
            joined = template.join(query, document, max_length)
            assert len(joined) == min(max_length, len(whole))
            windows = np.lib.stride_tricks.sliding_window_view(joined, len(query))
            assert (windows == query).all(axis=1).any()


def test_pieces_are_the_tokens_of_the_joint_text(tiny_tokenizer):
    template = Template.of(tiny_tokenizer, "D")
    for text in ["state space", "ends with ;", "", "  spaces  ", "e\u0301tat", "a;b; c ;"]:
        [query], [document] = template.tokenize_queries(["rank; text"]), template.tokenize_documents([text])
        joint = tiny_tokenizer(f"document: {text}; query: rank; text;", add_special_tokens=False)["input_ids"]
        assert template.join(query, document, 1000).tolist() == [*joint, tiny_tokenizer.sep_token_id]


def test_a_query_without_room_for_a_document_is_named(tiny_tokenizer):
    template = Template.of(tiny_tokenizer, "D")
    [query], [document] = template.tokenize_queries(["rank " * 30]), template.tokenize_documents(["state"])
    with pytest.raises(UserError, match=r"query q7: its 33 tokens leave no room .* max_length 16"):
        template.join(query, document, 16, "q7")


@pytest.mark.parametrize(("kind", "around"), [("D", 1), ("E", 1)])
def test_a_query_without_room_for_a_document_is_cut_to_half(tiny_tokenizer, kind, around):
    template = Template.of(tiny_tokenizer, kind)
    long, short = template.tokenize_queries(["rank " * 30, "rank"])
    [document] = template.tokenize_documents(["state space " * 10])
    cut, same = template.fit_queries([long, short], 16, ["q1", "q2"])
    assert template.count_long([long, short], 16) == 1 and same.tolist() == short.tolist()
    assert cut.tolist() == [*long[:7], *template.separator]
    assert len(template.join(cut, document, 16)) == 16
    with pytest.raises(UserError, match=r"query q1: its \d+ tokens leave no room .* set long_queries: cut"):
        template.fit_queries([long, short], 16, ["q1", "q2"], "error")
    # The longest query that leaves room for a document stays whole.
    most = long[: 16 - around - 1 - len(template.separator)]
    assert template.fit_queries([most], 16, ["q"])[0].tolist() == most.tolist()


# ---------------------------------------------------------------- special tokens of each family

SPECIAL = {
    # kind, ids before the text, ids after it; the families of conftest.py number their special tokens in this way.
    "roberta": ("E", [0], []),
    "bart": ("ED", [0], []),
    "opt": ("D", [2], [2]),
    "gpt-neox": ("D", [], [0]),
    "llama-3.2": ("D", [0], [1]),
}


def joined(template, query, document, max_length=1000):
    [query_ids], [document_ids] = template.tokenize_queries([query]), template.tokenize_documents([document])
    return template.join(query_ids, document_ids, max_length).tolist()


@pytest.mark.parametrize("family", SPECIAL)
def test_special_tokens_stand_around_the_text_of_the_template(byte_level_tokenizer, family):
    tokenizer = byte_level_tokenizer(family)
    kind, before, after = SPECIAL[family]
    ids = joined(Template.of(tokenizer, kind), "mamba scan", "state space")
    assert ids[: len(before)] == before
    assert ids[len(ids) - len(after) :] == after
    text = tokenizer.decode(ids[len(before) : len(ids) - len(after)], clean_up_tokenization_spaces=False)
    if kind == "D":
        assert text == "document: state space; query: mamba scan;"
    else:
        assert text == "; query: mamba scan; document: state space"


@pytest.mark.parametrize("family", SPECIAL)
def test_what_the_model_was_pretrained_to_start_with_stands_first(byte_level_tokenizer, family):
    """The template begins a text as the tokenizer does."""
    tokenizer = byte_level_tokenizer(family)
    own = tokenizer("state space")["input_ids"]
    plain = tokenizer("state space", add_special_tokens=False)["input_ids"]
    kind, before, _ = SPECIAL[family]
    assert own[: own.index(plain[0])] == before == list(Template.of(tokenizer, kind).before)


@pytest.mark.parametrize("family", SPECIAL)
def test_no_text_of_a_document_becomes_a_special_token(byte_level_tokenizer, family):
    tokenizer = byte_level_tokenizer(family)
    template = Template.of(tokenizer, SPECIAL[family][0])
    text = "state " + " ".join(tokenizer.all_special_tokens) + " space"
    [document], [query] = template.tokenize_documents([text]), template.tokenize_queries([text])
    assert not set(tokenizer.all_special_ids) & {*document.tolist(), *query.tolist()}
    assert text in tokenizer.decode(document, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("family", SPECIAL)
def test_pieces_are_the_tokens_of_the_joint_text_byte_level(byte_level_tokenizer, family):
    tokenizer = byte_level_tokenizer(family)
    kind, before, after = SPECIAL[family]
    template = Template.of(tokenizer, kind)
    for text in [
        "state space",
        "ends with ;",
        "!?;;",
        "",
        "  spaces  ",
        "line\n",
        "e\u0301tat \u4e2d\u6587",
        "a;b; c ;",
    ]:
        text_ids = joined(template, "rank; text", text)
        whole = f"document: {text}; query: rank; text;" if kind == "D" else f"; query: rank; text; document: {text}"
        assert text_ids == [*before, *tokenizer(whole, add_special_tokens=False)["input_ids"], *after]


def test_order_may_be_set_against_the_kinds(tiny_tokenizer):
    first = Template.of(tiny_tokenizer, "E", "document-first")
    assert text_of(first, np.array(joined(first, "mamba", "state"))) == "[CLS] document : state ; query : mamba ;"
    last = Template.of(tiny_tokenizer, "D", "query-first")
    assert text_of(last, np.array(joined(last, "mamba", "state"))) == "; query : mamba ; document : state [SEP]"


def test_a_tokenizer_without_the_token_is_one_line(byte_level_tokenizer):
    tokenizer = byte_level_tokenizer("llama-3.2")
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="has no eos or sep token; name one in its tokenizer_config"):
        Template.of(tokenizer, "D")


BOTH_SIDES = [
    ("D", "query : {q} ; document : {d} ; query : {q} ; [SEP]"),
    ("E", "[CLS] ; query : {q} ; document : {d} ; query : {q} ;"),
]


@pytest.mark.parametrize(("kind", "text"), BOTH_SIDES)
def test_a_query_on_both_sides(tiny_tokenizer, kind, text):
    template = Template.of(tiny_tokenizer, kind, "query-document-query")
    ids = joined(template, "mamba scan", "state space")
    expected = text.format(q="mamba scan", d="state space").split()
    assert ids == tiny_tokenizer.convert_tokens_to_ids(expected)


@pytest.mark.parametrize(("kind", "text"), BOTH_SIDES)
def test_a_document_between_queries_is_cut_and_both_queries_are_whole(tiny_tokenizer, kind, text):
    template = Template.of(tiny_tokenizer, kind, "query-document-query")
    words = "state space models rank text passages".split()
    for count in range(1, len(words)):
        expected = text.format(q="mamba scan", d=" ".join(words[:count])).split()
        ids = joined(template, "mamba scan", " ".join(words), len(expected))
        assert ids == tiny_tokenizer.convert_tokens_to_ids(expected)
    [query] = template.tokenize_queries(["mamba scan"])
    around = len(template.before) + 2 * len(query) + len(template.after)
    with pytest.raises(UserError, match="leave no room"):
        template.room(len(query), around + 1)
    assert template.room(len(query), around + 2) == 2


TWICE = "document-document-query"


def test_a_document_that_is_read_twice(tiny_tokenizer):
    template = Template.of(tiny_tokenizer, "D", TWICE)
    ids = np.array(joined(template, "mamba scan", "state space"))
    assert text_of(template, ids) == "document : state space ; document : state space ; query : mamba scan ; [SEP]"


def test_both_copies_of_a_document_are_cut_to_the_same_tokens(tiny_tokenizer):
    template = Template.of(tiny_tokenizer, "D", TWICE)
    words = [f"{word}" for word in "state space models rank text passages river boat fish snow".split() * 4]
    [query], [document] = template.tokenize_queries(["mamba scan"]), template.tokenize_documents([" ".join(words)])
    whole = template.join(query, document, 1000)
    for max_length in range(len(query) + 1 + 2 * 2, len(whole) + 3):
        ids = template.join(query, document, max_length)
        copies = np.split(ids[: len(ids) - len(query) - 1], 2)
        assert np.array_equal(*copies) and copies[0][-1] == template.separator[-1]
        assert np.array_equal(copies[0][:-1], document[: len(copies[0]) - 1])
        half = template.room(len(query), max_length) // 2
        # Whole if it fits, else a multiple of 8 tokens, or what there is of fewer.
        assert len(copies[0]) == (len(document) if len(document) <= half else half // 8 * 8 or half)
        assert len(ids) == template.length(len(query), len(document), max_length) <= max_length
    with pytest.raises(UserError, match="leave no room"):
        template.join(query, document, len(query) + 1 + 3)


@pytest.mark.parametrize("family", SPECIAL)
def test_copies_of_a_document_are_the_tokens_of_the_joint_text(byte_level_tokenizer, family):
    tokenizer = byte_level_tokenizer(family)
    kind, before, after = SPECIAL[family]
    if kind != "D":
        with pytest.raises(UserError, match=f"template {TWICE}: only decoders read a document twice"):
            Template.of(tokenizer, kind, TWICE)
        return
    template = Template.of(tokenizer, kind, TWICE)
    for text in ["state space", "ends with ;", "!?;;", "", "  spaces  ", "line\n", "a;b; c ;"]:
        # The text begins with a space, so that both copies are the same tokens.
        whole = f" document: {text}; document: {text}; query: rank; text;"
        expected = [*before, *tokenizer(whole, add_special_tokens=False)["input_ids"], *after]
        assert joined(template, "rank; text", text) == expected


@pytest.mark.parametrize("order", ["query-first", "document-first", "query-document-query", TWICE])
def test_the_length_of_a_sequence_is_known_before_it_is_made(tiny_tokenizer, order):
    template = Template.of(tiny_tokenizer, "D", order)
    queries = template.tokenize_queries(["", "mamba scan", "rank " * 9])
    documents = template.tokenize_documents(["", "state space " * 3, "river boat fish " * 20])
    for query, document in itertools.product(queries, documents):
        for max_length in (30, 47, 64, 300):
            made = len(template.join(query, document, max_length))
            assert made == template.length(len(query), len(document), max_length)


@pytest.mark.parametrize("kind", ["D", "E"])
def test_a_long_query_on_both_sides_is_cut_to_a_quarter(tiny_tokenizer, kind):
    template = Template.of(tiny_tokenizer, kind, "query-document-query")
    [long] = template.tokenize_queries(["rank " * 30])
    [cut] = template.fit_queries([long], 32, ["q1"])
    assert cut.tolist() == [*long[:7], *template.separator]
    [document] = template.tokenize_documents(["state space " * 10])
    assert len(template.join(cut, document, 32)) == 32


@pytest.mark.parametrize("family", SPECIAL)
def test_pieces_between_two_queries_are_the_tokens_of_the_joint_text(byte_level_tokenizer, family):
    tokenizer = byte_level_tokenizer(family)
    kind, before, after = SPECIAL[family]
    template = Template.of(tokenizer, kind, "query-document-query")
    for text in ["state space", "ends with ;", "!?;;", "", "a;b; c ;"]:
        # A decoder's text begins with a space, so that both copies of the query are the same tokens.
        whole = f"{'' if kind == 'D' else ';'} query: rank; text; document: {text}; query: rank; text;"
        expected = [*before, *tokenizer(whole, add_special_tokens=False)["input_ids"], *after]
        assert joined(template, "rank; text", text) == expected
