"""A run as columns of query-document pairs, without a Python object for each of its millions of lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssmrank.gc_control import gc_paused
from ssmrank.io.atomic import atomic_file
from ssmrank.io.trec import Run, float32_places, lines_of, of_places, read_run, run_lines, score_texts, single_precision

_TEXT = "S15"
"""Bytes that hold any score: `-1.23456789e-38`."""


class Pair(NamedTuple):
    """The ids of a query and a document."""

    query: str
    document: str


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of a query and a document.

    queries, documents: the distinct ids, each of which is in some pair. query, document: int64 [P], for each pair the
    index of its query in `queries` and of its document in `documents`.
    """

    queries: list[str]
    documents: list[str]
    query: np.ndarray
    document: np.ndarray

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Pairs:
        """Pairs from ids of queries and documents; ids are numbered in the order of their first occurrence."""
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

    @property
    def ranks(self) -> np.ndarray:
        """The rank of each pair within its query, int64 [P], from 0. The pairs of a query must be adjacent."""
        begins = np.flatnonzero(np.diff(self.query, prepend=-1))
        return np.arange(len(self)) - np.repeat(begins, np.diff(begins, append=len(self)))

    def at(self, places: np.ndarray) -> Pairs:
        """The pairs at these positions, int64."""
        queries, query = _those_used(self.queries, self.query[places])
        documents, document = _those_used(self.documents, self.document[places])
        return Pairs(queries, documents, query, document)


@gc_paused()
def pairs_of(run: Run, depth: int) -> Pairs:
    """The first `depth` documents of each query, in the run's order."""
    rankings = {query: ranking[:depth] for query, ranking in run.items() if ranking}
    counts = np.fromiter(map(len, rankings.values()), dtype=np.int64, count=len(rankings))
    documents, document = _numbered([document for ranking in rankings.values() for document, _ in ranking])
    return Pairs(list(rankings), documents, np.repeat(np.arange(len(rankings)), counts), document)


@gc_paused()
def read_pairs(path: str | Path, depth: int | None = None) -> Pairs:
    """The pairs of a run file: the same as `pairs_of(read_run(path), depth)`; depth None: all pairs.

    Raises UserError as `read_run` does.
    """
    queries, documents = _Numbers(), _Numbers()
    parts = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))]
    for _, asked, found, values in lines_of(path):
        parts.append((queries.of(asked), documents.of(found), np.array(values)))
    query, document, scores = map(np.concatenate, zip(*parts, strict=True))
    lines = np.sort(query * len(documents) + document)
    if (lines[1:] == lines[:-1]).any():
        read_run(path)  # raises the error that names the line
    names = list(documents)
    order = _ranked(query, single_precision(scores), document, names)
    query, document = query[order], document[order]
    pairs = Pairs(list(queries), names, query, document)
    kept = pairs.ranks < (depth or math.inf)
    return pairs if kept.all() else pairs.at(np.flatnonzero(kept))


def with_remainder(pairs: Pairs, reranked: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The scores of all pairs, float32 [P], from the scores of the reranked ones.

    reranked: bool [P]; within a query the reranked pairs come first. scores: float32, one for each of them. The other
    pairs keep their order below the reranked ones: each gets the float32 just below the score before it.
    """
    every = np.empty(len(pairs), dtype=np.float32)
    every[reranked] = scores
    if reranked.all():
        return every
    ranks = pairs.ranks
    begins = np.flatnonzero(ranks == 0)
    counts = np.diff(begins, append=len(pairs))
    least = np.minimum.reduceat(np.where(reranked, every, np.float32(np.inf)), begins)
    depths = np.add.reduceat(reranked.astype(np.int64), begins)
    places = np.repeat(float32_places(least) + depths, counts) - ranks - 1
    every[~reranked] = of_places(places[~reranked])
    return every


class ScoreTexts:
    """The scores of P pairs as a run has them, made while other scores are computed."""

    def __init__(self, count: int) -> None:
        self._texts = np.zeros(count, dtype=_TEXT)

    def add(self, places: np.ndarray, scores: np.ndarray) -> None:
        """Takes the scores, float32 [N], of pairs at these places, int64 [N]."""
        self._texts[places] = score_texts(scores.tolist())

    def of(self, first: np.ndarray) -> np.ndarray:
        """The texts, bytes, of pairs that are marked in `first`, bool, and empty ones for others."""
        if first.all():
            return self._texts
        texts = np.zeros(len(first), dtype=_TEXT)
        texts[first] = self._texts
        return texts


@gc_paused()
def write_pairs(path: str | Path, pairs: Pairs, scores: np.ndarray, tag: str, texts: np.ndarray | None = None) -> None:
    """Writes the run of pairs with these scores, float32 [P]; the bytes are those of `write_run`.

    The pairs of a query must be adjacent. texts: from `ScoreTexts`, bytes [P]; an empty one is made now.
    """
    order = _ranked(pairs.query, scores, pairs.document, pairs.documents)
    query, ordered = pairs.query[order], scores[order]
    if texts is None:
        texts = np.zeros(len(pairs), dtype=_TEXT)
    names = np.array([document.encode() for document in pairs.documents] or [b""], dtype=object)
    ids, texts = names[pairs.document[order]], texts[order]
    ends = np.flatnonzero(np.diff(query, append=-1)) + 1
    with atomic_file(path, "wb") as stream:
        begin = 0
        for end in ends.tolist():
            own = slice(begin, end)
            stream.write(run_lines(pairs.queries[query[begin]], ids[own].tolist(), ordered[own], tag, texts[own]))
            begin = end


def _ranked(query: np.ndarray, scores: np.ndarray, document: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The order in which pairs are written, int64 [P]: by query, then as in `sort_ranking`. scores: float32 [P]."""
    if ((query[1:] > query[:-1]) | ((query[1:] == query[:-1]) & (scores[1:] < scores[:-1]))).all():
        return np.arange(len(query))
    order = np.argsort((query << 33) - float32_places(scores))
    query, scores = query[order], scores[order]
    same = np.concatenate([[False], (query[1:] == query[:-1]) & (scores[1:] == scores[:-1]), [False]])
    tied = np.flatnonzero(same[1:] | same[:-1])
    if len(tied):
        places = np.empty(len(names), dtype=np.int64)
        places[sorted(range(len(names)), key=names.__getitem__, reverse=True)] = np.arange(len(names))
        order[tied] = order[tied][np.lexsort((places[document[order[tied]]], np.cumsum(~same)[tied]))]
    return order


class _Numbers(dict[str, int]):
    """Numbers names in the order in which they are first looked up."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number

    def of(self, names: Sequence[str]) -> np.ndarray:
        """The numbers of names, int64 [N]."""
        return np.fromiter(map(self.__getitem__, names), dtype=np.int64, count=len(names))


def _numbered(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The distinct names in the order of first occurrence, and for each position the number of its name."""
    numbers = _Numbers()
    places = numbers.of(names)
    return list(numbers), places


def _those_used(names: Sequence[str], numbers: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names that `numbers` refer to, in their order, and `numbers` changed to index these names alone."""
    used = np.zeros(len(names), dtype=bool)
    used[numbers] = True
    return [names[number] for number in np.flatnonzero(used).tolist()], (np.cumsum(used) - 1)[numbers]
