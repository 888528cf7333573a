"""Computes a sample of a reranked run again in other batches, and compares the scores bit by bit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ssmrank.config.rerankings import Reranking
from ssmrank.errors import UserError
from ssmrank.io.pairs import Pairs, pairs_of
from ssmrank.io.trec import Run, single_precision, sort_ranking, strictly_decreasing
from ssmrank.models.precision import resolve_precision
from ssmrank.models.reranker import Reranker
from ssmrank.reranking.engine import Part, PassageWindows, plan_work, score_parts
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.sequences import Tokens

log = logging.getLogger(__name__)

PACKINGS = 20
TOP = 10
"""Documents at the top of a ranking, which are compared."""


@dataclass(frozen=True)
class Verification:
    """What packings made of a sample of pairs.

    pairs, queries: of the sample; digests: SHA-256 of the sample's scores as float32 in each packing, the first that of
    the run itself; differences: float32 [P], between a pair's largest and smallest score; changed: queries whose top 10
    differs between packings.
    """

    pairs: int
    queries: int
    digests: tuple[str, ...]
    differences: np.ndarray
    changed: int

    @property
    def equal(self) -> bool:
        """Whether all packings, and the run, have the same scores."""
        return len(set(self.digests)) == 1

    def line(self) -> str:
        """The outcome in one line."""
        count, packings = f"{self.pairs} pairs of {self.queries} queries", len(self.digests) - 1
        if self.equal:
            return f"{count} have the same scores in {packings} packings as in the run (SHA-256 {self.digests[0]})"
        others = sum(digest != self.digests[0] for digest in self.digests[1:])
        different = int((self.differences > 0).sum())
        quantiles = np.quantile(self.differences, [0.5, 0.9, 0.99, 1.0])
        shares = ", ".join(
            f"{value:.2g} ({name})" for value, name in zip(quantiles, ("median", "90%", "99%", "most"), strict=True)
        )
        return (
            f"{different} of {count} have other scores in {others} of {packings} packings than in the run; differences "
            f"{shares}; the top {TOP} of {self.changed} queries changes"
        )


class _Packing(NamedTuple):
    """places: int64, the pairs that are computed together, in their order; share: whether documents are reused."""

    places: np.ndarray
    budget: int
    share: bool
    threads: int


def sample_of(run: Run, settings: Reranking, count: int, seed: int = 0) -> tuple[Run, Run]:
    """Whole queries of a run with about `count` pairs together, and as many other pairs, cut to the settings' depth."""
    if not any(run.values()):
        raise UserError("the run has no pairs; there is nothing to verify")
    random = np.random.default_rng(seed)
    names = [query for query, ranking in run.items() if ranking]
    chosen: Run = {}
    others: Run = {}
    for place in random.permutation(len(names)).tolist():
        ranking, pairs = run[names[place]][: settings.depth], sum(map(len, chosen.values()))
        if pairs < count:
            chosen[names[place]] = ranking
        elif sum(map(len, others.values())) < count:
            others[names[place]] = ranking
    return chosen, others


def verify(
    reranker: Reranker,
    settings: Reranking,
    run: Run,
    queries: Mapping[str, str],
    documents: Tokens,
    device: torch.device,
    others: Run,
    packings: int = PACKINGS,
) -> Verification:
    """Scores the pairs of a run in `packings` other ways, with `others` beside them in some.

    run: the sample as it was written, so its scores are strictly decreasing; documents: tokens of all documents.
    """
    sample = pairs_of(run, settings.depth)
    every = Pairs.of([*sample, *pairs_of(others, settings.depth)])
    found: list[np.ndarray] = [np.array([score for ranking in run.values() for _, score in ranking])]
    tops: list[dict[str, list[str]]] = [{query: [id for id, _ in ranking[:TOP]] for query, ranking in run.items()}]
    threads = torch.get_num_threads()
    for number, packing in enumerate(_packings(packings, len(sample), len(every), settings.token_budget, threads)):
        if device.type == "cpu":
            torch.set_num_threads(packing.threads)
        scores = _scores(reranker, settings, every, queries, documents, device, packing)[: len(sample)]
        again = _ranked(run, sample, scores)
        tops.append({query: [id for id, _ in ranking[:TOP]] for query, ranking in again.items()})
        by_pair = {query: dict(ranking) for query, ranking in again.items()}
        found.append(np.array([by_pair[query][id] for query, ranking in run.items() for id, _ in ranking]))
        log.info("packing %d of %d: %d pairs, budget %d", number + 1, packings, len(packing.places), packing.budget)
    torch.set_num_threads(threads)
    table = single_precision(np.stack(found))
    changed = sum(any(top[query] != tops[0][query] for top in tops) for query in run)
    digests = tuple(hashlib.sha256(row.tobytes()).hexdigest() for row in table)
    return Verification(len(sample), len(run), digests, np.ptp(table, axis=0), changed)


def _packings(packings: int, sample: int, every: int, budget: int, threads: int) -> Iterator[_Packing]:
    random = np.random.default_rng(1)
    for number in range(packings):
        count = sample if number % 4 < 2 else int(random.integers(sample, every + 1))
        places = random.permutation(count)
        own = max(16, round(budget * 2.0 ** -random.uniform(0, 6)))
        yield _Packing(places, own if number else budget, number % 2 == 0, 1 + number % threads)


def _scores(
    reranker: Reranker,
    settings: Reranking,
    pairs: Pairs,
    queries: Mapping[str, str],
    documents: Tokens,
    device: torch.device,
    packing: _Packing,
) -> np.ndarray:
    """The scores of a packing's pairs at their places, float32; NaN for other pairs."""
    passages = PassageWindows(settings.passages.length, settings.passages.stride) if settings.passages else None
    precision = resolve_precision(settings.precision, device)
    # Some packings are computed in two parts, which have different neighbours.
    halves = np.array_split(packing.places, 1 + len(packing.places) % 2)
    parts = []
    for places in halves:
        work = plan_work(
            *(reranker, pairs.at(places), queries, documents, packing.budget, passages, packing.share),
            long_queries=settings.long_queries,
            deterministic=settings.deterministic,
        )
        parts.append(Part(work, places))
    scorer = Scorer(reranker, precision, device, deterministic=settings.deterministic)
    return score_parts(scorer, parts, len(pairs)).values


def _ranked(run: Run, pairs: Pairs, scores: np.ndarray) -> Run:
    """The run of the pairs as it would be written."""
    rankings: Run = {query: [] for query in run}
    for pair, score in zip(pairs, scores.tolist(), strict=True):
        rankings[pair.query].append((pair.document, score))
    return {query: strictly_decreasing(sort_ranking(ranking)) for query, ranking in rankings.items()}
