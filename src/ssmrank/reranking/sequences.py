"""The token sequences of pairs, which are assembled only when they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ssmrank.errors import UserError
from ssmrank.io.pairs import Pairs
from ssmrank.models.templates import LongQueries, Template


class Tokens(Protocol):
    """Document sides by document id, int32 ids: a `TokenStore` or a dict."""

    def __getitem__(self, key: str, /) -> np.ndarray: ...


class PairSequences:
    """The sequences that `Template.join` makes of P pairs, with each query and document tokenized once.

    queries, documents, query, document: the pairs' ids and numbers, as in `Pairs`; lengths: int64 [P], tokens of each
    sequence; whole: int64 [P], how many of them are the document's own, without the separator that a cut one keeps;
    cut: bool [P], whether the document is cut; endings: for each of Q queries its tokens and those after it, int32 ids,
    which end the sequence if the query follows the document; all_endings: the endings end to end; ending_lengths,
    ending_starts: int64 [Q], each ending's length and its start in `all_endings`.

    A document that is read twice is a document for each length of its copies. It holds both copies, and is never cut.
    """

    def __init__(
        self,
        template: Template,
        max_length: int,
        pairs: Pairs,
        queries: Mapping[str, str],
        documents: Tokens,
        long_queries: LongQueries = "cut",
    ) -> None:
        self.template, self.max_length, self._tokens = template, max_length, documents
        self.queries, self.query = pairs.queries, pairs.query
        self.documents, self.document = pairs.documents, pairs.document
        unknown = next((query for query in self.queries if query not in queries), None)
        if unknown is not None:
            raise UserError(
                f"query {unknown}: in the run, but not in the collection's split; rerank a run of this split"
            )
        asked_whole = template.tokenize_queries([queries[query] for query in self.queries])
        self._asked = template.fit_queries(asked_whole, max_length, self.queries, long_queries)
        self.endings = [np.concatenate([asked, template.after]).astype(np.int32) for asked in self._asked]
        self.all_endings = np.concatenate([np.empty(0, dtype=np.int32), *self.endings])
        self.ending_lengths = np.array([len(ending) for ending in self.endings], dtype=np.int64)
        self.ending_starts = np.cumsum(self.ending_lengths) - self.ending_lengths
        rooms = [
            template.room(len(asked), max_length, query) for asked, query in zip(self._asked, self.queries, strict=True)
        ]
        room = np.array(rooms, dtype=np.int64)[self.query]
        sizes = np.array([len(documents[id]) for id in self.documents], dtype=np.int64)[self.document]
        self.shortened = sizes > template.longest(room)
        """bool [P], whether a sequence lacks a part of its document."""
        self._kept: np.ndarray | None = None
        if template.document_copies > 1:
            sizes = self._make_copies(template.kept(sizes, room))
        self.cut = sizes > room
        # A cut document keeps its separator where a query follows it.
        kept = len(template.separator) if template.query_follows else 0
        self.whole = np.where(self.cut, room - kept, sizes)
        asked = template.query_copies * np.array([len(tokens) for tokens in self._asked], dtype=np.int64)[self.query]
        self.lengths = self.whole + np.where(self.cut, kept, 0) + asked + len(template.before) + len(template.after)

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, pair: int) -> np.ndarray:
        """A pair's sequence, int32 ids."""
        query = self.query[pair]
        side = self._tokens[self.documents[self.document[pair]]]
        return self.template.join(self._asked[query], side, self.max_length, self.queries[query])

    def text(self, document: int) -> np.ndarray:
        """The uncut document side of a document, by number, int32 ids; both copies of one that is read twice."""
        side = self._tokens[self.documents[document]]
        return side if self._kept is None else self.template.copies(side, int(self._kept[document]))

    def _make_copies(self, kept: np.ndarray) -> np.ndarray:
        """Makes a document of each one and each length of its copies; returns all copies' tokens in each sequence.

        kept: int64 [P], tokens of a copy.
        """
        step = int(kept.max(initial=0)) + 1
        names, self.document = np.unique(self.document * step + kept, return_inverse=True)
        self.documents = [self.documents[number] for number in (names // step).tolist()]
        self._kept = names % step
        return self.template.document_copies * kept
