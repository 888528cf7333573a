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


class GroupedQuery(NamedTuple):
    """A query of training groups: its pool (the first documents of a run), and its groups' documents, each once."""

    id: str
    pool: Ranking
    documents: list[str]
    groups: list[int]
    """Indices of its groups."""


class MemberScores(NamedTuple):
    """A member's scores of a query, float64; NaN for a document without a score."""

    pool: NDArray[np.float64]
    """Scores of the pool; empty where the member knows nothing of the query."""
    documents: NDArray[np.float64]
    """Scores of the query's documents."""

    def standardised(self) -> NDArray[np.float64]:
        """The documents' z-scores over the pool; a document without a score gets the lowest score of the pool.

        Zeros where the pool's scores are all equal, since then they carry no information.
        """
        known = np.where(np.isnan(self.documents), self.pool.min(), self.documents)
        return standardised(known, self.pool)


def grouped_queries(groups: Sequence[Group], run: Path, depth: int) -> Iterator[GroupedQuery]:
    """The queries in the order of the run, which is read once. Queries not in the run come last, with an empty pool."""
    numbers: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        numbers.setdefault(group.query, []).append(number)

    def grouped(id: str, pool: Ranking) -> GroupedQuery:
        own = numbers.pop(id)
        documents = dict.fromkeys(document for number in own for document in groups[number].documents)
        return GroupedQuery(id, pool, list(documents), own)

    for id, ranking in iterate_run(run, depth):
        if id in numbers:
            yield grouped(id, ranking)
    for id in list(numbers):
        yield grouped(id, [])
