"""Which pairs a run asks for, and which of them are scored together.

Pairs are sorted by length and laid into batches of a token budget, longest first, so that a batch that does not fit
into memory shows at once and the sequences of a batch are of about equal length. Those of a large run are planned in
parts, each of other documents: the first part is soon planned, the others are while the device scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssmrank.collector import collector_paused
from ssmrank.io.trec import Run

FIRST_PART = 2**20
"""Bytes of text of a run's first part: they are tokenized and planned in a tenth of a second."""

GROWTH = 3
"""How many times the bytes of a part the next one has: scoring a part takes longer than planning as much again."""


class Pair(NamedTuple):
    """A query and a document by id."""

    query: str
    document: str


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs, as numbers of ids of which each is in one of them.

    queries, documents: ids; query, document: int64 [P], number of each pair's query and document.
    """

    queries: list[str]
    documents: list[str]
    query: np.ndarray
    document: np.ndarray

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Pairs:
        """Pairs from ids of queries and documents; numbers go by the order of first places."""
        pairs = list(pairs)
        queries, query = _numbered([query for query, _ in pairs])
        documents, document = _numbered([document for _, document in pairs])
        return cls(queries, documents, query, document)

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, place: int) -> Pair:
        return Pair(self.queries[self.query[place]], self.documents[self.document[place]])

    def __iter__(self) -> Iterator[Pair]:
        numbers = zip(self.query.tolist(), self.document.tolist(), strict=True)
        return (Pair(self.queries[query], self.documents[document]) for query, document in numbers)

    def at(self, places: np.ndarray) -> Pairs:
        """The pairs at these places, int64."""
        queries, query = _those_used(self.queries, self.query[places])
        documents, document = _those_used(self.documents, self.document[places])
        return Pairs(queries, documents, query, document)


@collector_paused()
def pairs_of(run: Run, depth: int) -> Pairs:
    """The first `depth` documents of each query, in the run's order."""
    rankings = {query: ranking[:depth] for query, ranking in run.items() if ranking}
    counts = np.fromiter(map(len, rankings.values()), dtype=np.int64, count=len(rankings))
    documents, document = _numbered([document for ranking in rankings.values() for document, _ in ranking])
    return Pairs(list(rankings), documents, np.repeat(np.arange(len(rankings)), counts), document)


def parts_of(pairs: Pairs, sizes: np.ndarray) -> list[np.ndarray]:
    """The places of the pairs of each part, int64; sizes: int64, bytes of each document.

    The documents of the first part are the longest. What would not fill another part is the last one's; few bytes are
    one part.
    """
    order = np.argsort(-sizes, kind="stable")
    ends = np.cumsum(sizes[order])
    bounds, done, size = [], 0, FIRST_PART
    while ends[-1:].sum() - done >= 2 * size:
        done = int(ends[np.searchsorted(ends, done + size)])
        bounds.append(done)
        size *= GROWTH
    part = np.empty(len(order), dtype=np.int64)
    part[order] = np.searchsorted(bounds, ends - sizes[order], side="right")
    parts = part[pairs.document]
    return [np.flatnonzero(parts == number) for number in range(len(bounds) + 1)]


def plan(
    lengths: Sequence[int] | np.ndarray, token_budget: int, costs: Sequence[int] | np.ndarray | None = None
) -> list[np.ndarray]:
    """Batches of indices into `lengths` with at most `token_budget` tokens each; a longer sequence stands alone.

    costs: tokens of each, where they are not its length but of what is laid into a batch as one.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    weights = np.asarray(lengths if costs is None else costs)[order].tolist()
    batches: list[np.ndarray] = []
    start, tokens = 0, 0
    for place, weight in enumerate(weights):
        if place > start and tokens + weight > token_budget:
            batches.append(order[start:place])
            start, tokens = place, 0
        tokens += weight
    if start < len(order):
        batches.append(order[start:])
    return batches


def _numbered(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The different names in the order of their first places, and for each place the number of its name."""
    different = list(dict.fromkeys(names))
    numbers = dict(zip(different, range(len(different)), strict=True))
    return different, np.fromiter(map(numbers.__getitem__, names), dtype=np.int64, count=len(names))


def _those_used(names: Sequence[str], numbers: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names that numbers ask for, in their order, and the numbers that these then have."""
    used = np.zeros(len(names), dtype=bool)
    used[numbers] = True
    return [names[number] for number in np.flatnonzero(used).tolist()], (np.cumsum(used) - 1)[numbers]
