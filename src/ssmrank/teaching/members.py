"""The members of a teacher, each of which scores the documents of lessons."""

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
from ssmrank.teaching.lessons import Lesson, Marks


class Member(Protocol):
    """One member of a teacher."""

    def marks(self, lessons: Sequence[Lesson], /) -> list[Marks]:
        """Its scores of each lesson. Over all calls, lessons come in their order and each once."""
        ...

    def skip(self, lessons: Sequence[Lesson], /) -> None:
        """Skips lessons that are finished already."""
        ...


class RunMember:
    """The scores of a run. A pool document that it lacks gets its lowest score of the query.

    Where the run lacks the query, the pool is empty.
    """

    def __init__(self, run: Path, depth: int) -> None:
        self._rankings = RunReader(run, depth)

    def marks(self, lessons: Sequence[Lesson]) -> list[Marks]:
        """Looks documents up; a document outside the run's first `depth` has no score."""
        return [self._of(lesson) for lesson in lessons]

    def skip(self, lessons: Sequence[Lesson]) -> None:
        """Reads past the lessons' rankings."""
        for lesson in lessons:
            self._rankings.take(lesson.query)

    def _of(self, lesson: Lesson) -> Marks:
        scores = _scores(self._rankings, lesson)
        documents = np.array([scores.get(document, np.nan) for document in lesson.documents], dtype=np.float64)
        if not scores:
            return Marks(np.zeros(0), documents)
        lowest = min(scores.values())
        pool = [scores.get(document, lowest) for document, _ in lesson.pool]
        return Marks(np.array(pool, dtype=np.float64), documents)


class EncoderMember:
    """Inner products of a bi-encoder's vectors. Document vectors come from `ssmrank index vectors`."""

    def __init__(self, encoder: BiEncoder, vectors: Path, store: TextStore, queries: Mapping[str, str]) -> None:
        self._encoder, self._store, self._queries = encoder, store, queries
        self._vectors = Vectors(vectors)
        width = self._vectors.description.width
        if width != encoder.width:
            raise UserError(f"{vectors}: of width {width}, but the model's vectors have {encoder.width}; encode again")

    def marks(self, lessons: Sequence[Lesson]) -> list[Marks]:
        """Encodes the queries together and reads each document's vector once."""
        names = [[*(document for document, _ in lesson.pool), *lesson.documents] for lesson in lessons]
        places = {document: place for place, document in enumerate(dict.fromkeys(d for own in names for d in own))}
        vectors = self._vectors.at(self._store.rows(list(places)))
        queries = self._encoder.queries([self._queries[lesson.query] for lesson in lessons])
        found = []
        for lesson, own, query in zip(lessons, names, queries, strict=True):
            scores: NDArray[np.float64] = (vectors[[places[name] for name in own]] @ query).astype(np.float64)
            found.append(Marks(scores[: len(lesson.pool)], scores[len(lesson.pool) :]))
        return found

    def skip(self, lessons: Sequence[Lesson]) -> None:
        """Does nothing, since vectors can be read in any order."""


class RerankerMember:
    """A reranker's scores. Its pool is the documents of the query's groups, because scoring deep pools is expensive."""

    def __init__(self, run: Path) -> None:
        """Opens the run that holds the scores of all documents of all lessons."""
        self._rankings = RunReader(run)

    def marks(self, lessons: Sequence[Lesson]) -> list[Marks]:
        """Looks the documents up."""
        found = []
        for lesson in lessons:
            scores = _scores(self._rankings, lesson)
            own = np.array([scores[document] for document in lesson.documents], dtype=np.float64)
            found.append(Marks(own, own))
        return found

    def skip(self, lessons: Sequence[Lesson]) -> None:
        """Reads past the lessons' rankings."""
        for lesson in lessons:
            self._rankings.take(lesson.query)


def _scores(rankings: RunReader, lesson: Lesson) -> dict[str, float]:
    """The scores of a query's documents in a run, with ties restored (`with_ties`)."""
    ranking = rankings.take(lesson.query)
    scores = with_ties(np.array([score for _, score in ranking], dtype=np.float64))
    return dict(zip((document for document, _ in ranking), scores.tolist(), strict=True))
