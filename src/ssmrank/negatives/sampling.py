"""Draws negatives for each relevant document from the first stage's run."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ssmrank.config.negatives import Negatives
from ssmrank.errors import UserError
from ssmrank.io.trec import Qrels

_RANDOM_TRIES = 1000
"""Draws allowed for each random negative; after that the collection is too small or has too many equal texts."""


class Group(NamedTuple):
    """One relevant document and its negatives."""

    query: str
    positive: str
    negatives: list[str]


class NoGroup(UserError):
    """Run, qrels and settings leave nothing to train on."""


@dataclass
class Sample:
    """The groups, sorted by query and positive, and counts of what was left out."""

    groups: list[Group] = field(default_factory=list)
    positives: int = 0
    """Relevant documents in the qrels."""
    without_text: int = 0
    """Positives that the collection does not have; left out."""
    not_retrieved: int = 0
    """Positives of the collection outside the run's first `depth`; left out only where `positives` is `retrieved`."""
    too_few_candidates: int = 0
    """Groups left out because fewer than `count` documents were left to draw from."""
    queries_without_positive: int = 0
    queries_not_in_run: int = 0
    """Queries that have a positive but are not in the run."""
    false_negatives: int = 0
    """Candidates left out because their score is too near a positive's or above it."""
    repeated_texts: int = 0
    """Candidates left out because the positive or a candidate of a better rank has the same text."""
    deepest: int = 0
    """The most documents that the run has for a query."""


class Facts(NamedTuple):
    """What is known of documents besides their ranks in the run."""

    rival_scores: Callable[[str], Mapping[str, float]] = lambda query: {}
    """The scores of a query's documents by another system; a high one marks a false negative."""

    same_text: Callable[[str], Hashable] = lambda document: document
    """A key for a document's text: equal for documents with the same text."""

    collection: Sequence[str] = ()
    """All ids of the collection, for random negatives."""

    texts: Container[str] | None = None
    """Documents that the collection has; None: every document counts as known."""


def sample_negatives(
    run: Iterable[tuple[str, list[tuple[str, float]]]], qrels: Qrels, settings: Negatives, facts: Facts | None = None
) -> Sample:
    """Draws `count` negatives for each positive, uniformly without replacement.

    Candidates are the run's first `depth` documents of the query, except those judged relevant (grade above 0).
    Documents that are judged 0 or unjudged are candidates. The settings change this:

    - Each of the `bands` gives its number of negatives from its ranks. Where a band has too few candidates, the rest
      comes from the query's other candidates.
    - `false_negatives` and `distinct_texts` remove candidates, separately for each positive.
    - `random` negatives, the last of a group, are drawn from all ids of the collection instead.

    A group with too few candidates is left out, since the loss needs groups of one size. So is a positive that the
    collection does not have. Each group has its own generator, seeded by (seed, query, positive). A group therefore
    depends on its query's ranking only, not on other queries, their order, threads or Python's hash seed.

    The run is read one ranking at a time, so it need not fit into memory.

    Raises:
        NoGroup: where the negatives to draw from the run exceed `depth`, the collection is too small for random ones,
            or no group is left.
    """
    facts = facts or Facts()
    if settings.count - settings.random > settings.depth:
        raise NoGroup(f"negatives: count {settings.count} is more than depth {settings.depth}; raise depth")
    if settings.random and len(facts.collection) <= settings.count:
        raise NoGroup(f"negatives: {len(facts.collection)} documents are too few to draw {settings.random} random ones")
    sample = Sample()
    groups: dict[str, list[Group]] = {}
    for query, ranking in run:
        sample.deepest = max(sample.deepest, len(ranking))
        if query in qrels:
            groups[query] = _groups_of(query, ranking, qrels[query], settings, sample, facts)
    for query in sorted(qrels):
        if query not in groups and _relevant(qrels[query]):
            sample.queries_not_in_run += 1
            _groups_of(query, [], qrels[query], settings, sample, facts)
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
    facts: Facts,
) -> list[Group]:
    """The groups of a query; counts in `sample` what is left out."""
    relevant = _relevant(judged)
    sample.positives += len(relevant)
    ranked = [document for document, _ in ranking[: settings.depth]]
    known = {document for document in relevant if facts.texts is None or document in facts.texts}
    sample.without_text += len(relevant) - len(known)
    retrieved = known.intersection(ranked)
    sample.not_retrieved += len(known) - len(retrieved)
    candidates = [document if document not in relevant else None for document in ranked]
    chosen = known if settings.positives == "all" else retrieved
    rival_scores = facts.rival_scores(query) if settings.false_negatives and chosen else {}
    groups = []
    for positive in sorted(chosen):
        own = _without_false_negatives(candidates, positive, rival_scores, settings, sample)
        if settings.distinct_texts:
            own = _with_distinct_texts(own, positive, facts.same_text, sample)
        negatives = _negatives_of(query, positive, own, relevant, settings, facts)
        if negatives is None:
            sample.too_few_candidates += 1
        else:
            groups.append(Group(query, positive, negatives))
    return groups


_Candidates = list[str | None]
"""A query's documents by rank; None in place of a document that is no candidate."""


def _without_false_negatives(
    candidates: _Candidates, positive: str, scores: Mapping[str, float], settings: Negatives, sample: Sample
) -> _Candidates:
    """Drops candidates that score above the positive's score less the margin; keeps all if the positive has none."""
    if settings.false_negatives is None or positive not in scores:
        return candidates
    limit = scores[positive] - settings.false_negatives.margin
    kept = [document if document and scores.get(document, -math.inf) <= limit else None for document in candidates]
    sample.false_negatives += kept.count(None) - candidates.count(None)
    return kept


def _with_distinct_texts(
    candidates: _Candidates, positive: str, same_text: Callable[[str], Hashable], sample: Sample
) -> _Candidates:
    seen = {same_text(positive)}
    kept: _Candidates = []
    for document in candidates:
        text = same_text(document) if document else None
        kept.append(None if text in seen else document)
        seen.add(text)
    sample.repeated_texts += kept.count(None) - candidates.count(None)
    return kept


def _negatives_of(
    query: str, positive: str, candidates: _Candidates, relevant: set[str], settings: Negatives, facts: Facts
) -> list[str] | None:
    """The negatives of a group; None where there are too few to draw from."""
    generator = _generator(settings.seed, query, positive)
    wanted = settings.count - settings.random
    left = [document for document in candidates if document]
    if len(left) < wanted or (settings.random and len(facts.collection) - len(relevant) < settings.count):
        return None
    negatives: list[str] = []
    for band in settings.bands:
        own = [document for document in candidates[band.first - 1 : band.last] if document]
        negatives += _draw(own, min(band.count, len(own)), generator)
    drawn = set(negatives)
    left = [document for document in left if document not in drawn] if drawn else left
    negatives += _draw(left, wanted - len(negatives), generator)
    texts = {facts.same_text(document) for document in (positive, *negatives)} if settings.distinct_texts else set()
    for _ in range(_RANDOM_TRIES * settings.random):
        if len(negatives) == settings.count:
            break
        document = facts.collection[int(generator.random() * len(facts.collection))]
        if document in relevant or document in negatives:
            continue
        if settings.distinct_texts:
            if facts.same_text(document) in texts:
                continue
            texts.add(facts.same_text(document))
        negatives.append(document)
    return negatives if len(negatives) == settings.count else None


def _relevant(judged: Mapping[str, int]) -> set[str]:
    return {document for document, grade in judged.items() if grade > 0}


def explain(sample: Sample, settings: Negatives) -> str:
    """One line of counts for the log."""
    parts = [f"{len(sample.groups)} groups of {sample.positives} relevant documents"]
    if sample.without_text:
        parts.append(f"{sample.without_text} left out that the collection lacks")
    kept = "left out" if settings.positives == "retrieved" else "kept"
    parts.append(f"{sample.not_retrieved} outside the first {settings.depth} ({kept})")
    parts.append(f"{sample.too_few_candidates} left out with fewer than {settings.count} candidates")
    if settings.false_negatives is not None:
        parts.append(f"{sample.false_negatives} candidates left out as possibly relevant")
    if settings.distinct_texts:
        parts.append(f"{sample.repeated_texts} candidates left out for a text that comes twice")
    parts.append(f"{sample.queries_not_in_run} queries not in the run")
    parts.append(f"{sample.queries_without_positive} queries without a relevant document")
    return ", ".join(parts)


def _advice(sample: Sample, settings: Negatives) -> str:
    if sample.positives == 0:
        return "the qrels need a grade above 0"
    if sample.positives == sample.without_text:
        return "give the collection of these qrels"
    if sample.too_few_candidates:
        return "lower count or retrieve deeper"
    return "check that run and qrels are of the same split, or set positives: all"


def _generator(seed: int, query: str, positive: str) -> random.Random:
    """The group's own generator. The key is JSON so that ("a", "bc") and ("ab", "c") differ."""
    key = json.dumps([seed, query, positive]).encode("ascii")
    return random.Random(int.from_bytes(hashlib.sha256(key).digest()[:16], "big"))


def _draw(candidates: Sequence[str], count: int, generator: random.Random) -> list[str]:
    """Draws `count` candidates, each ordered choice equally likely (the first steps of a Fisher-Yates shuffle).

    It uses only `random()`, the one method whose sequence Python promises not to change for a given seed.
    """
    pool = list(candidates)
    for position in range(count):
        other = position + int(generator.random() * (len(pool) - position))
        pool[position], pool[other] = pool[other], pool[position]
    return pool[:count]
