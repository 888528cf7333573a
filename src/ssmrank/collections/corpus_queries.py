"""Texts with queries drawn from them, to train a reranker where there are no judgments.

The only relevant document of a query is the text that it was drawn from. A query is a title, a sentence or a sequence
of words (`query_drawing`). Only some documents begin with their title, so that a title does not always match its
document word for word.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from ssmrank.collections.corpus import Text, fraction
from ssmrank.collections.corpus_texts import NumberedTexts
from ssmrank.collections.query_drawing import Shares, draw_queries
from ssmrank.collections.source import Document, Judgment, Part, Query
from ssmrank.config.collections import CorpusQueries
from ssmrank.errors import UserError


class _Drawn(NamedTuple):
    number: int
    id: str
    document: str
    query: str


class CorpusQueriesSource:
    """Texts and their queries as a `Source`; the first query of document D has the id D#1."""

    tolerant = False
    shared_queries = True

    def __init__(self, settings: CorpusQueries, texts: NumberedTexts) -> None:
        self.settings = settings
        self.left_out: dict[str, int] = {}
        self._texts = texts
        self._shares = Shares(settings.titles, settings.sentences, settings.words)

    def documents(self) -> Iterator[Document]:
        """The chosen texts; the share `titled` of them begins with the title."""
        for number, text in self._chosen():
            titled = text.title and fraction(text.id, "titled") < self.settings.titled
            yield Document(number, text.id, f"{text.title} {text.text}" if titled else text.text)

    def queries(self, split: str) -> Iterator[Query]:
        """The queries, in the order of the texts."""
        for number, id, _, query in self._queries:
            yield Query(number, id, query)

    def judgments(self, split: str) -> Iterator[Judgment]:
        """For each query the text that it was drawn from."""
        for number, id, document, _ in self._queries:
            yield Judgment(number, id, document, 1)

    def where(self, part: Part, number: int, split: str = "") -> str:
        """File and line."""
        return self._texts.where(number)

    def _chosen(self) -> Iterator[tuple[int, Text]]:
        for number, text in self._texts:
            if fraction(text.id, "text") < self.settings.share:
                yield number, text

    @cached_property
    def _queries(self) -> list[_Drawn]:
        found = [
            _Drawn(number, f"{text.id}#{place}", text.id, query)
            for number, text in self._chosen()
            for place, query in enumerate(self._drawn_from(text), start=1)
        ]
        if not found:
            raise UserError(
                "source: no query could be made from the texts; raise queries_per_text, or add other kinds of queries"
            )
        return found

    def _drawn_from(self, text: Text) -> list[str]:
        whole = int(self.settings.queries_per_text)
        count = whole + (fraction(text.id, "queries") < self.settings.queries_per_text - whole)
        seed = f"{self.settings.seed} {text.id}"
        return draw_queries(text.title, text.text, count, self._shares, self.settings.max_words, seed)
