"""The queries of training groups, each with the pool of documents over which scores are standardised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssmrank.fusion.normalise import standardised
from ssmrank.io.trec import iterate_run
from ssmrank.training.groups import Group

Ranking = list[tuple[str, float]]


class Lesson(NamedTuple):
    """A query, its pool (the first documents of a run), and the documents of its groups, each once."""

    query: str
    pool: Ranking
    documents: list[str]
    groups: list[int]
    """Indices of its groups."""


class Marks(NamedTuple):
    """A member's scores of a lesson, float64; NaN for a document without a score."""

    pool: NDArray[np.float64]
    """Scores of the pool; empty where the member knows nothing of the query."""
    documents: NDArray[np.float64]
    """Scores of the lesson's documents."""

    def standardised(self) -> NDArray[np.float64]:
        """The documents' z-scores over the pool; a document without a score gets the lowest score of the pool.

        Zeros where the pool's scores are all equal, since then they carry no information.
        """
        known = np.where(np.isnan(self.documents), self.pool.min(), self.documents)
        return standardised(known, self.pool)


def lessons(groups: Sequence[Group], run: Path, depth: int) -> Iterator[Lesson]:
    """The lessons in the order of the run, which is read once. Queries not in the run come last, with an empty pool."""
    numbers: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        numbers.setdefault(group.query, []).append(number)

    def lesson(query: str, pool: Ranking) -> Lesson:
        own = numbers.pop(query)
        documents = dict.fromkeys(document for number in own for document in groups[number].documents)
        return Lesson(query, pool, list(documents), own)

    for query, ranking in iterate_run(run, depth):
        if query in numbers:
            yield lesson(query, ranking)
    for query in list(numbers):
        yield lesson(query, [])
