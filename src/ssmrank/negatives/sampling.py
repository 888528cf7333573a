"""Draws the negatives of each relevant document from the first stage's run."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ssmrank.config import Negatives
from ssmrank.errors import UserError
from ssmrank.io.trec import Qrels


class Group(NamedTuple):
    """One relevant document and the documents that stand against it."""

    query: str
    positive: str
    negatives: list[str]


class NoGroup(UserError):
    """Run, judgments and settings leave nothing to train on."""


@dataclass
class Sample:
    """The groups, sorted by query and positive, and what was left out."""

    groups: list[Group] = field(default_factory=list)
    positives: int = 0
    """Relevant documents in the qrels."""
    not_retrieved: int = 0
    """Positives outside the run's first `depth`; left out only where `positives` is `retrieved`."""
    too_few_candidates: int = 0
    """Groups left out because fewer than `count` documents were left to draw from."""
    queries_without_positive: int = 0
    queries_not_in_run: int = 0
    """Queries with a positive that the run does not have."""
    deepest: int = 0
    """Documents of the query for which the run has most."""

    def counts(self) -> dict[str, int]:
        """All of it as numbers by name."""
        values = {name: value for name, value in vars(self).items() if name not in ("groups", "deepest")}
        return {"groups": len(self.groups)} | values


def sample_negatives(
    run: Iterable[tuple[str, list[tuple[str, float]]]],
    qrels: Qrels,
    settings: Negatives,
    collection: Sequence[str] = (),
) -> Sample:
    """Draws `count` negatives for each positive, uniformly without replacement.

    Candidates are the run's first `depth` documents of the query without those judged relevant (grade above 0);
    documents judged 0 or not at all are candidates. A group with fewer candidates than `count` is left out, since the
    loss takes groups of one size. Each group has its own generator, seeded by (seed, query, positive), so that a group
    depends on nothing but its query's ranking: not on other queries, their order, threads or Python's hash seed.
    `random` of the negatives, the last ones, are drawn from all ids of `collection` instead.

    The rankings of a run are taken one after the other, so that it need not fit into memory.

    Raises:
        NoGroup: where `count` exceeds `depth`, or no group is left.
    """
    if settings.count - settings.random > settings.depth:
        raise NoGroup(f"negatives: count {settings.count} is more than depth {settings.depth}; raise depth")
    if settings.random and len(collection) <= settings.count:
        raise NoGroup(f"negatives: {len(collection)} documents are too few to draw {settings.random} random ones")
    sample = Sample()
    groups: dict[str, list[Group]] = {}
    for query, ranking in run:
        sample.deepest = max(sample.deepest, len(ranking))
        if query in qrels:
            groups[query] = _groups_of(query, ranking, qrels[query], settings, sample, collection)
    for query in sorted(qrels):
        if query not in groups and _relevant(qrels[query]):
            sample.queries_not_in_run += 1
            _groups_of(query, [], qrels[query], settings, sample, collection)
        sample.queries_without_positive += not _relevant(qrels[query])
        sample.groups += groups.get(query, [])
    if not sample.groups:
        raise NoGroup(f"no training group was left: {explain(sample, settings)}; {_advice(sample, settings)}")
    return sample


def _groups_of(
    query: str,
    ranking: Sequence[tuple[str, float]],
    judged: Mapping[str, int],
    settings: Negatives,
    sample: Sample,
    collection: Sequence[str],
) -> list[Group]:
    """The groups of a query; what is left out is counted in `sample`."""
    relevant = _relevant(judged)
    sample.positives += len(relevant)
    ranked = [document for document, _ in ranking[: settings.depth]]
    retrieved = relevant.intersection(ranked)
    sample.not_retrieved += len(relevant) - len(retrieved)
    candidates = [document for document in ranked if document not in relevant]
    chosen = relevant if settings.positives == "all" else retrieved
    retrieved_ones = settings.count - settings.random
    # Where nearly everything is relevant, there may be too little to draw from.
    if len(candidates) < retrieved_ones or (settings.random and len(collection) - len(relevant) < settings.count):
        sample.too_few_candidates += len(chosen)
        return []
    groups = []
    for positive in sorted(chosen):
        generator = _generator(settings.seed, query, positive)
        negatives = _draw(candidates, retrieved_ones, generator)
        while len(negatives) < settings.count:
            drawn = collection[int(generator.random() * len(collection))]
            if drawn not in relevant and drawn not in negatives:
                negatives.append(drawn)
        groups.append(Group(query, positive, negatives))
    return groups


def _relevant(judged: Mapping[str, int]) -> set[str]:
    return {document for document, grade in judged.items() if grade > 0}


def explain(sample: Sample, settings: Negatives) -> str:
    """One line of counts for the log."""
    parts = [f"{len(sample.groups)} groups of {sample.positives} relevant documents"]
    verb = "left out" if settings.positives == "retrieved" else "kept"
    parts.append(f"{sample.not_retrieved} outside the first {settings.depth} ({verb})")
    parts.append(f"{sample.too_few_candidates} left out with fewer than {settings.count} candidates")
    parts.append(f"{sample.queries_not_in_run} queries not in the run")
    parts.append(f"{sample.queries_without_positive} queries without a relevant document")
    return ", ".join(parts)


def _advice(sample: Sample, settings: Negatives) -> str:
    if sample.positives == 0:
        return "the qrels need a grade above 0"
    if sample.too_few_candidates:
        return "lower count or retrieve deeper"
    return "check that run and qrels are of the same split, or set positives: all"


def _generator(seed: int, query: str, positive: str) -> random.Random:
    """The group's own generator; JSON keeps ("a", "bc") apart from ("ab", "c")."""
    key = json.dumps([seed, query, positive]).encode("ascii")
    return random.Random(int.from_bytes(hashlib.sha256(key).digest()[:16], "big"))


def _draw(candidates: Sequence[str], count: int, generator: random.Random) -> list[str]:
    """`count` of the candidates, each ordered choice equally likely (the first steps of Fisher and Yates's shuffle).

    Written out over `random()`, the one method whose sequence Python promises to keep for a given seed.
    """
    pool = list(candidates)
    for position in range(count):
        other = position + int(generator.random() * (len(pool) - position))
        pool[position], pool[other] = pool[other], pool[position]
    return pool[:count]
