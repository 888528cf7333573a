"""Weights of fused runs, fitted by a grid search on judged queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from ssmrank.errors import UserError
from ssmrank.evaluation.metrics import evaluate
from ssmrank.fusion.fuse import Pool
from ssmrank.io.trec import Qrels

Weights = tuple[float, ...]


class Fitted(NamedTuple):
    """The best weights, the metric's mean with them, and that of each that was tried."""

    weights: Weights
    mean: float
    tried: dict[Weights, float]


def grid(runs: int, steps: int) -> Iterator[Weights]:
    """Every combination of weights out of 0, 1 / (steps - 1), ..., 1 that add up to 1."""
    parts = steps - 1
    # Bars between stars: where they stand cuts the parts into one share for each run.
    for bars in combinations(range(parts + runs - 1), runs - 1):
        edges = (-1, *bars, parts + runs - 1)
        yield tuple((high - low - 1) / parts for low, high in pairwise(edges))


def fit_weights(pools: Mapping[str, Pool], qrels: Qrels, metric: str, steps: int, name: str = "the run") -> Fitted:
    """The weights of the grid with the highest mean of the metric; of equal ones those that are most alike.

    A query of the qrels without a pool counts 0, as in evaluation. Raises UserError where no query of the qrels has a
    pool; `name` stands in that message.
    """
    runs = len(next(iter(pools.values())).terms) if pools else 1
    tried = {}
    for weights in grid(runs, steps):
        array = np.array(weights)
        run = {query: pool.fused(array) for query, pool in pools.items() if query in qrels}
        if not run:
            raise UserError(f"{name}: none of its queries is judged; give qrels of the same split")
        tried[weights] = evaluate(qrels, run, [metric], name).mean()[metric]
    best = max(tried, key=lambda weights: (tried[weights], -float(np.var(weights))))
    return Fitted(best, tried[best], tried)
