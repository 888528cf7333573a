"""The members of a teacher, each of which scores the documents of queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssmrank.errors import UserError
from ssmrank.fusion.fuse import with_ties
from ssmrank.io.run_reader import RunReader
from ssmrank.io.texts import TextStore
from ssmrank.retrieval.encoder import BiEncoder
from ssmrank.retrieval.vectors import Vectors
from ssmrank.teaching.queries import GroupedQuery, MemberScores


class Member(Protocol):
    """One member of a teacher."""

    def score(self, queries: Sequence[GroupedQuery], /) -> list[MemberScores]:
        """Its scores of each query. Over all calls, queries come in their order and each once."""
        ...

    def skip(self, queries: Sequence[GroupedQuery], /) -> None:
        """Skips queries that are finished already."""
        ...


class RunMember:
    """The scores of a run. A pool document that it lacks gets its lowest score of the query.

    Where the run lacks the query, the pool is empty.
    """

    def __init__(self, run: Path, depth: int) -> None:
        self._rankings = RunReader(run, depth)

    def score(self, queries: Sequence[GroupedQuery]) -> list[MemberScores]:
        """Looks documents up; a document outside the run's first `depth` has no score."""
        return [self._of(query) for query in queries]

    def skip(self, queries: Sequence[GroupedQuery]) -> None:
        """Reads past the queries' rankings."""
        for query in queries:
            self._rankings.take(query.id)

    def _of(self, query: GroupedQuery) -> MemberScores:
        scores = _scores(self._rankings, query)
        documents = np.array([scores.get(document, np.nan) for document in query.documents], dtype=np.float64)
        if not scores:
            return MemberScores(np.zeros(0), documents)
        lowest = min(scores.values())
        pool = [scores.get(document, lowest) for document, _ in query.pool]
        return MemberScores(np.array(pool, dtype=np.float64), documents)


class EncoderMember:
    """Inner products of a bi-encoder's vectors. Document vectors come from `ssmrank index vectors`."""

    def __init__(self, encoder: BiEncoder, vectors: Path, store: TextStore, queries: Mapping[str, str]) -> None:
        self._encoder, self._store, self._queries = encoder, store, queries
        self._vectors = Vectors(vectors)
        width = self._vectors.description.width
        if width != encoder.width:
            raise UserError(
                f"{vectors}: has vectors of width {width}, but the model's have {encoder.width}; encode again"
            )

    def score(self, queries: Sequence[GroupedQuery]) -> list[MemberScores]:
        """Encodes the queries together and reads each document's vector once."""
        names = [[*(document for document, _ in query.pool), *query.documents] for query in queries]
        places = {document: place for place, document in enumerate(dict.fromkeys(d for own in names for d in own))}
        vectors = self._vectors.at(self._store.rows(list(places)))
        encoded = self._encoder.queries([self._queries[query.id] for query in queries])
        found = []
        for query, own, vector in zip(queries, names, encoded, strict=True):
            scores: NDArray[np.float64] = (vectors[[places[name] for name in own]] @ vector).astype(np.float64)
            found.append(MemberScores(scores[: len(query.pool)], scores[len(query.pool) :]))
        return found

    def skip(self, queries: Sequence[GroupedQuery]) -> None:
        """Does nothing, since vectors can be read in any order."""


class RerankerMember:
    """A reranker's scores. Its pool is the documents of the query's groups, because scoring deep pools is expensive."""

    def __init__(self, run: Path) -> None:
        """Opens the run that holds the scores of all documents of all queries."""
        self._rankings = RunReader(run)

    def score(self, queries: Sequence[GroupedQuery]) -> list[MemberScores]:
        """Looks the documents up."""
        found = []
        for query in queries:
            scores = _scores(self._rankings, query)
            own = np.array([scores[document] for document in query.documents], dtype=np.float64)
            found.append(MemberScores(own, own))
        return found

    def skip(self, queries: Sequence[GroupedQuery]) -> None:
        """Reads past the queries' rankings."""
        for query in queries:
            self._rankings.take(query.id)


def _scores(rankings: RunReader, query: GroupedQuery) -> dict[str, float]:
    """The scores of a query's documents in a run, with ties restored (`with_ties`)."""
    ranking = rankings.take(query.id)
    scores = with_ties(np.array([score for _, score in ranking], dtype=np.float64))
    return dict(zip((document for document, _ in ranking), scores.tolist(), strict=True))
