"""How a server counts the tokens of pairs in each order of reading."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ssmrank.errors import UserError
from ssmrank.models.reranker import Reranker, new_reranker
from ssmrank.serving.lengths import LengthChecker, Truncation

QUERY = "what is a mamba"
DOCUMENTS = ["", "river boat", "snow fish mountain " * 4, "state space models rank text " * 30]
ORDERS = ["document-first", "query-first", "query-document-query", "document-document-query"]


@pytest.fixture(params=ORDERS)
def model(request, tiny_model) -> Reranker:
    plain = new_reranker(tiny_model("mamba2"), "D", 48)
    return Reranker(plain.backbone, plain.tokenizer, replace(plain.settings, template=request.param))


def length(model: Reranker, document: str) -> int:
    template = model.template
    return len(template.join(template.tokenize_queries([QUERY])[0], template.tokenize_documents([document])[0], 48))


def test_tokens_are_those_of_the_sequence_that_the_model_reads(model: Reranker) -> None:
    checker = LengthChecker(model, keeps_states=False)
    truncation = Truncation()
    measured = checker.measure(checker.ask(QUERY, truncation), DOCUMENTS, truncation, range(len(DOCUMENTS)))
    assert [one.tokens for one in measured] == [length(model, document) for document in DOCUMENTS]
    assert [one.text for one in measured] == DOCUMENTS


def test_a_document_that_loses_its_beginning_is_read_whole_in_each_copy(model: Reranker) -> None:
    checker, left = LengthChecker(model, keeps_states=False), Truncation(left=True)
    asked = checker.ask(QUERY, left)
    [cut] = checker.measure(asked, DOCUMENTS[3:], left, [0])
    assert cut.text and DOCUMENTS[3].endswith(cut.text) and cut.tokens == length(model, cut.text) <= 48
    template = model.template
    [side] = template.tokenize_documents([cut.text])
    room = template.room(asked.tokens, 48)
    assert template.longest(room) - 1 <= len(side) <= template.longest(room)


def test_a_pair_that_must_not_be_cut_is_an_error_with_its_tokens(model: Reranker) -> None:
    checker, whole = LengthChecker(model, keeps_states=False), Truncation(allowed=False)
    asked = checker.ask(QUERY, whole)
    template = model.template
    tokens = len(
        template.join(template.tokenize_queries([QUERY])[0], template.tokenize_documents(DOCUMENTS[3:])[0], 900)
    )
    with pytest.raises(
        UserError, match=rf"documents\[7\]: {tokens} tokens or more with the query, but the model reads 48"
    ):
        checker.measure(asked, DOCUMENTS[3:], whole, [7])
