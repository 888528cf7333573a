"""Fits the weights of fused runs by a grid search on judged queries."""

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
    """The best weights, the metric's mean with them, and the mean with all weights that were tried."""

    weights: Weights
    mean: float
    tried: dict[Weights, float]


def grid(runs: int, steps: int) -> Iterator[Weights]:
    """Every combination of weights from 0, 1 / (steps - 1), ..., 1 that adds up to 1."""
    parts = steps - 1
    # Stars and bars: the positions of the bars split the parts into a share for each run.
    for bars in combinations(range(parts + runs - 1), runs - 1):
        edges = (-1, *bars, parts + runs - 1)
        yield tuple((high - low - 1) / parts for low, high in pairwise(edges))


def fit_weights(pools: Mapping[str, Pool], qrels: Qrels, metric: str, steps: int, name: str = "the run") -> Fitted:
    """Finds the weights with the highest mean of the metric; of tied weights, the most even ones.

    A query of the qrels without a pool counts 0, as in evaluation. Raises UserError, which begins with `name`, where no
    query of the qrels has a pool.
    """
    runs = len(next(iter(pools.values())).terms) if pools else 1
    tried = {}
    for weights in grid(runs, steps):
        array = np.array(weights)
        run = {query: pool.fused(array) for query, pool in pools.items() if query in qrels}
        if not run:
            raise UserError(f"{name}: the qrels have none of its queries; give the qrels of the same split")
        tried[weights] = evaluate(qrels, run, [metric], name).mean()[metric]
    best = max(tried, key=lambda weights: (tried[weights], -float(np.var(weights))))
    return Fitted(best, tried[best], tried)
