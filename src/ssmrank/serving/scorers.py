"""What computes scores for the server: the interface, and the plain way that keeps no documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ssmrank.api import Reranker


class PairScore(Protocol):
    """A pair's score, and whether the state of its document was found rather than computed."""

    @property
    def score(self) -> float:
        """Higher is more relevant."""
        ...

    @property
    def cached(self) -> bool:
        """Whether the document's state was found."""
        ...


class StateStats(Protocol):
    """What became of the documents' states."""

    @property
    def hits(self) -> int:
        """Documents whose states were in memory."""
        ...

    @property
    def loads(self) -> int:
        """Documents whose states were loaded from disk."""
        ...

    @property
    def misses(self) -> int:
        """Documents whose states were computed."""
        ...

    @property
    def evictions(self) -> int:
        """States that had to go."""
        ...

    @property
    def bytes(self) -> int:
        """Size of the states in memory."""
        ...

    @property
    def budget(self) -> int:
        """The most bytes that they may have."""
        ...


class PairScorer(Protocol):
    """Scores pairs of query and document, given as texts, which may come from many requests.

    One thread at a time calls `score`, another one `sizes`. Raises UserError for a pair that cannot be scored.
    """

    def sizes(self, texts: Sequence[str]) -> list[int] | None:
        """The tokens of documents, which `score` then need not tokenize; None if it tokenizes them anyway."""
        ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> Sequence[PairScore]:
        """Scores in the order of the pairs."""
        ...

    def stats(self) -> StateStats | None:
        """Counts since the start; None if no states are kept."""
        ...


@dataclass(frozen=True, slots=True)
class ComputedScore:
    """The score of a pair whose document was computed."""

    score: float
    cached: bool = False


class PlainScorer:
    """Computes every document, for models that have no state at a document's end, such as BERT."""

    def __init__(self, reranker: Reranker) -> None:
        self._reranker = reranker

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[ComputedScore]:
        """Scores in the order of the pairs; equal pairs are computed once."""
        queries = {text: str(number) for number, text in enumerate(dict.fromkeys(query for query, _ in pairs))}
        documents = {text: str(number) for number, text in enumerate(dict.fromkeys(text for _, text in pairs))}
        candidates: dict[str, dict[str, None]] = {}
        for query, text in pairs:
            candidates.setdefault(queries[query], {})[documents[text]] = None
        ranked = self._reranker.rank_many(
            {id: text for text, id in queries.items()}, candidates, {id: text for text, id in documents.items()}
        )
        scores = {(query, document): score for query, ranking in ranked.items() for document, score in ranking}
        return [ComputedScore(scores[queries[query], documents[text]]) for query, text in pairs]

    def sizes(self, texts: Sequence[str]) -> None:
        """No tokens are remembered."""

    def stats(self) -> None:
        """No states are kept."""


def scorer_of(reranker: Reranker) -> PairScorer:
    """What computes a reranker's scores: with kept states if it keeps them, otherwise the plain way."""
    states = reranker.document_states
    return states if states is not None and states.keeps_states else PlainScorer(reranker)
