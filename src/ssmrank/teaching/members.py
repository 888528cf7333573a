"""What a teacher is made of: each member scores the documents of lessons."""

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
        """Its scores of each lesson; lessons come in their order, each once."""
        ...

    def skip(self, lessons: Sequence[Lesson], /) -> None:
        """Passes over lessons that are done already."""
        ...


class RunMember:
    """A run's own scores. A document of the pool that the run lacks has its lowest; no query, no pool."""

    def __init__(self, run: Path, depth: int) -> None:
        self._rankings = RunReader(run, depth)

    def marks(self, lessons: Sequence[Lesson]) -> list[Marks]:
        """Looks each document up; a document outside the run's first `depth` is unknown."""
        return [self._of(lesson) for lesson in lessons]

    def skip(self, lessons: Sequence[Lesson]) -> None:
        """Reads on."""
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
    """Inner products of a bi-encoder's vectors. Those of documents come from `ssmrank index vectors`."""

    def __init__(self, encoder: BiEncoder, vectors: Path, store: TextStore, queries: Mapping[str, str]) -> None:
        self._encoder, self._store, self._queries = encoder, store, queries
        self._vectors = Vectors(vectors)
        width = self._vectors.description.width
        if width != encoder.width:
            raise UserError(f"{vectors}: of width {width}, but the model's vectors have {encoder.width}; encode again")

    def marks(self, lessons: Sequence[Lesson]) -> list[Marks]:
        """Encodes the queries in one batch, and reads each document's vector once."""
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
        """Nothing is read in an order."""


class RerankerMember:
    """A reranker's scores of the groups' documents, which are the pool too: it reads each pair, and a pool is deep."""

    def __init__(self, run: Path) -> None:
        """Opens the run that holds the scores of all documents of all lessons."""
        self._rankings = RunReader(run)

    def marks(self, lessons: Sequence[Lesson]) -> list[Marks]:
        """Looks each document up."""
        found = []
        for lesson in lessons:
            scores = _scores(self._rankings, lesson)
            own = np.array([scores[document] for document in lesson.documents], dtype=np.float64)
            found.append(Marks(own, own))
        return found

    def skip(self, lessons: Sequence[Lesson]) -> None:
        """Reads on."""
        for lesson in lessons:
            self._rankings.take(lesson.query)


def _scores(rankings: RunReader, lesson: Lesson) -> dict[str, float]:
    """The scores of a query's documents in a run, as they were before ties were written one float32 apart."""
    ranking = rankings.take(lesson.query)
    scores = with_ties(np.array([score for _, score in ranking], dtype=np.float64))
    return dict(zip((document for document, _ in ranking), scores.tolist(), strict=True))
