"""Fuses runs by weighted sums of normalised scores or of reciprocal ranks.

`pool_runs` computes each run's term for each document once. Weights are applied to these terms, so a grid search over
weights does not read the runs again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssmrank.config.fusions import FuseSettings
from ssmrank.errors import UserError
from ssmrank.fusion.normalise import min_max, z_scores
from ssmrank.gc_control import gc_paused
from ssmrank.io.trec import float32_places, iterate_run, sort_ranking

_NORMALISATIONS = {"z-score": z_scores, "min-max": min_max}


@dataclass(frozen=True)
class Ranking:
    """One query's documents in a run, best first, with their scores, float64 [n]."""

    documents: list[str]
    scores: NDArray[np.float64]


Rankings = dict[str, Ranking]
"""A run, by query."""


@dataclass(frozen=True)
class Pool:
    """The documents of a query, and each run's terms for them before weighting, float64 [runs, documents]."""

    documents: list[str]
    terms: NDArray[np.float64]

    def fused(self, weights: NDArray[np.float64]) -> list[tuple[str, float]]:
        """(document, weighted sum) in the order of the documents; weights are [runs].

        Sums are rounded to single precision, which evaluation reads. Rounding errors that depend on the order of
        addition then rarely decide the order of documents.
        """
        return list(zip(self.documents, (weights @ self.terms).astype(np.float32).tolist(), strict=True))


@gc_paused()
def read_rankings(path: Path, depth: int | None = None) -> Rankings:
    """Reads the first `depth` documents of each query. Raises UserError for a score that is not finite."""
    found: Rankings = {}
    for query, pairs in iterate_run(path, depth):
        documents, scores = zip(*pairs, strict=True)
        array = np.array(scores, dtype=np.float64)
        odd = np.flatnonzero(~np.isfinite(array))
        if len(odd):
            raise UserError(
                f"{path}: score of query {query}, document {documents[odd[0]]} is {scores[odd[0]]}; "
                "fused runs need finite scores"
            )
        found[query] = Ranking(list(documents), with_ties(array))
    return found


def with_ties(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Restores the ties of scores, best first, that `io.trec.run_writer` wrote one float32 apart.

    A tied document was written exactly one float32 below the document before it. Both get the same score again.
    """
    places = float32_places(scores.astype(np.float32))
    firsts = np.flatnonzero(np.diff(places, prepend=np.iinfo(np.int64).max) != -1)
    return scores[firsts[np.searchsorted(firsts, np.arange(len(scores)), side="right") - 1]]


def pool_files(settings: FuseSettings, runs: Sequence[Path], candidates: Path | None) -> dict[str, Pool]:
    """The pool of each query of run files.

    With `candidates` (a run), only the first `depth` documents of each of its queries are fused. Without it, the first
    `depth` documents of each query in every run are. Raises UserError where two runs have no query in common.
    """
    own_depth = settings.depth if candidates is None else None
    rankings = [read_rankings(path, own_depth) for path in runs]
    only = None if candidates is None else read_rankings(candidates, settings.depth)
    named = [*zip(runs, rankings, strict=True), *([] if candidates is None or only is None else [(candidates, only)])]
    first, queries = named[-1]
    for path, others in named[:-1]:
        if queries and others and not queries.keys() & others.keys():
            raise UserError(
                f"{path} and {first} have no query in common (such as {next(iter(others))} and {next(iter(queries))}); "
                "give runs of the same collection and split"
            )
    return pool_runs(settings, rankings, only)


def pool_runs(
    settings: FuseSettings, runs: Sequence[Mapping[str, Ranking]], candidates: Mapping[str, Ranking] | None = None
) -> dict[str, Pool]:
    """The pool of each query: its candidates, or without candidates all documents of the runs in order of appearance.

    A run's scores are normalised over the pooled documents that it has. A document that it lacks gets its lowest
    normalised score of the query, or 0 where it has none of the query's documents. With `rrf`, a document of rank r has
    1 / (k + r), with ranks counted among pooled documents, and a document that the run lacks has 0.
    """
    queries = candidates or dict.fromkeys(query for run in runs for query in run)
    pools = {}
    for query in queries:
        rankings = [run.get(query, _EMPTY) for run in runs]
        pooled = [candidates[query]] if candidates else rankings
        documents = list(dict.fromkeys(document for ranking in pooled for document in ranking.documents))
        places = {document: place for place, document in enumerate(documents)}
        terms = np.stack([_terms(settings, ranking, places) for ranking in rankings])
        pools[query] = Pool(documents, terms)
    return pools


def fuse(
    pools: Mapping[str, Pool], weights: Sequence[float], depth: int
) -> Iterable[tuple[str, list[tuple[str, float]]]]:
    """Yields each query's first `depth` (document, score) pairs, best first; `weights` has one weight for each run."""
    array = np.array(weights, dtype=np.float64)
    for query, pool in pools.items():
        yield query, sort_ranking(pool.fused(array))[:depth]


_EMPTY = Ranking([], np.zeros(0))


def _terms(settings: FuseSettings, ranking: Ranking, places: Mapping[str, int]) -> NDArray[np.float64]:
    """A run's term for each pooled document, float64 [documents]."""
    known = [number for number, document in enumerate(ranking.documents) if document in places]
    where = np.array([places[ranking.documents[number]] for number in known], dtype=np.int64)
    if settings.method == "rrf":
        values, lacking = 1.0 / (settings.k + np.arange(1, len(known) + 1)), 0.0
    else:
        values = _NORMALISATIONS[settings.method](ranking.scores[known])
        lacking = values.min() if known else 0.0
    terms = np.full(len(places), lacking)
    terms[where] = values
    return terms
