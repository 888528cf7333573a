"""Which pairs are scored together.

Pairs are sorted by length and laid into batches of a token budget, longest first, so that a batch that does not fit
into memory shows at once and the sequences of a batch are of about equal length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssmrank.io.trec import Run


class Pair(NamedTuple):
    """A query and a document by id."""

    query: str
    document: str


def pairs_of(run: Run, depth: int) -> list[Pair]:
    """The first `depth` documents of each query, in the run's order."""
    return [Pair(query, document) for query, ranking in run.items() for document, _ in ranking[:depth]]


def documents_of(run: Run, depth: int) -> set[str]:
    """The documents of these pairs."""
    return {document for ranking in run.values() for document, _ in ranking[:depth]}


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
