"""Titles of a corpus as queries. The only relevant document of a title is its own text, without the title.

Held-out texts and training texts are in different collections, so no positive or negative of a training is a document
of the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from ssmrank.collections.corpus import fraction
from ssmrank.collections.corpus_texts import CorpusPart
from ssmrank.collections.source import Document, Judgment, Part, Query
from ssmrank.config.collections import TitlesCollection
from ssmrank.config.corpora import Corpus


class _Title(NamedTuple):
    number: int
    id: str
    title: str


class TitlesSource:
    """A part of a corpus as a `Source`; a query has the id of its document."""

    tolerant = False
    shared_queries = True

    def __init__(self, settings: TitlesCollection, corpus: Corpus) -> None:
        self.settings = settings
        self.left_out: dict[str, int] = {}
        self._texts = CorpusPart(corpus, settings.part)

    def documents(self) -> Iterator[Document]:
        """The texts of the part, without their titles."""
        for number, text in self._texts:
            yield Document(number, text.id, text.text)

    def queries(self, split: str) -> Iterator[Query]:
        """The titles, in the order of the texts."""
        for number, id, title in self._titles:
            yield Query(number, id, title)

    def judgments(self, split: str) -> Iterator[Judgment]:
        """For each title its own text."""
        for number, id, _ in self._titles:
            yield Judgment(number, id, id, 1)

    def where(self, part: Part, number: int, split: str = "") -> str:
        """File and line."""
        return self._texts.where(number)

    @cached_property
    def _titles(self) -> list[_Title]:
        titles = [_Title(number, text.id, text.title) for number, text in self._texts]
        if self.settings.queries is None or self.settings.queries >= len(titles):
            return titles
        drawn = sorted(titles, key=lambda title: fraction(title.id, "query"))[: self.settings.queries]
        return sorted(drawn)
