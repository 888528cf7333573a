"""Metrics of a run by ranx. Where evaluation tools differ, trec_eval's rules apply.

- A document is relevant from grade 1 on, unless the metric names another grade. Unjudged documents and lower grades are
  not relevant (gain 0).
- nDCG is trec_eval's `ndcg_cut`: gain is linear, grade / log2(rank + 1), not exponential as in Burges et al. 2005, and
  the ideal ranking has all relevant documents of the qrels.
- Documents are ordered as by `sort_ranking`: by score in single precision, then by descending document id. Ranks in the
  file are ignored.
- Means are over every query of the qrels, as with trec_eval's `-c`. A query without results counts 0, and so does a
  query without a relevant document. Queries that are not in the qrels are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssmrank.config.evaluation import METRIC_PATTERN, METRICS
from ssmrank.errors import UserError
from ssmrank.evaluation.backend import ranx_metrics
from ssmrank.io.trec import Qrels, Run, sort_ranking

_RANX_NAMES = {
    "nDCG": "ndcg",
    "MRR": "reciprocal_rank",
    "MAP": "average_precision",
    "P": "precision",
    "Recall": "recall",
    "R": "recall",
}

_UNJUDGED = -1
_PADDING = -2


@dataclass(frozen=True)
class Metric:
    """A metric of ranx (`function`) at a cutoff (0: none); documents are relevant from grade `relevant` on."""

    name: str
    function: str
    cutoff: int
    relevant: int = 1

    @classmethod
    def parse(cls, name: str) -> Metric:
        """Parses a name such as nDCG@10. Raises UserError, which lists the known names, for another one."""
        match = METRIC_PATTERN.fullmatch(name)
        if match is None:
            raise UserError(f"unknown metric {name!r}; known: {', '.join(METRICS)}, where k is a cutoff such as 10")
        stem = match["graded"] or match["whole"] or match["cut"]
        cutoff = match["k0"] or match["k1"] or match["k2"] or 0
        return cls(name, _RANX_NAMES[stem], int(cutoff), int(match["rel1"] or match["rel2"] or 1))


@dataclass(frozen=True)
class MetricValues:
    """Values of each metric for each query of the qrels, in the qrels' order."""

    queries: list[str]
    per_query: dict[str, dict[str, float]]
    queries_without_results: int

    def mean(self) -> dict[str, float]:
        """The mean of each metric over all queries."""
        return {name: float(np.mean(list(values.values()))) for name, values in self.per_query.items()}


def evaluate(
    qrels: Qrels, run: Mapping[str, Iterable[tuple[str, float]]], metrics: Sequence[str], run_name: str = "the run"
) -> MetricValues:
    """Computes `metrics` of a run, which gives each query's (document id, score) pairs in any order.

    Raises UserError for an unknown metric, for qrels without queries, and for a run without a query of the qrels.
    """
    parsed = [Metric.parse(name) for name in metrics]
    if not qrels:
        raise UserError(f"{run_name}: the qrels name no query; check the qrels' file")
    if run and not run.keys() & qrels.keys():
        raise UserError(
            f"{run_name}: none of its {len(run)} queries (such as {next(iter(run))}) is among the {len(qrels)} of the "
            f"qrels (such as {next(iter(qrels))}); give the qrels of the same collection and split"
        )
    queries = list(qrels)
    rankings = [[document for document, _ in sort_ranking(run.get(query, ()))] for query in queries]
    levels = {level: _arrays(qrels, rankings, level) for level in {metric.relevant for metric in parsed}}
    module = ranx_metrics()
    per_query = {}
    for metric in parsed:
        function: Callable[..., np.ndarray] = getattr(module, metric.function)
        values = function(*levels[metric.relevant], metric.cutoff, 1)
        per_query[metric.name] = {query: float(value) for query, value in zip(queries, values, strict=True)}
    return MetricValues(queries, per_query, sum(1 for ranking in rankings if not ranking))


def mean_metric(qrels: Qrels, run: Run, metric: str, run_name: str = "the run") -> float:
    """The mean of one metric over all queries of the qrels; errors as `evaluate`."""
    return evaluate(qrels, run, [metric], run_name).mean()[metric]


def _arrays(qrels: Qrels, rankings: Sequence[Sequence[str]], level: int) -> tuple[np.ndarray, np.ndarray]:
    """The arrays that ranx's functions read, with documents of grade `level` and above as relevant.

    `judged` [queries, relevant, (number, grade)] and `retrieved` [queries, depth, (number, score)], float64, padded.
    The relevant documents of a query are numbered from 0, best grade first; all others share one number. ranx reads
    only the order of `retrieved`, so its scores stay 0.
    """
    relevant = [
        {document: number for number, (document, _) in enumerate(ordered)}
        for ordered in (_relevant(judgments, level) for judgments in qrels.values())
    ]
    judged = np.zeros((len(qrels), max([1, *map(len, relevant)]), 2))
    retrieved = np.zeros((len(rankings), max([1, *map(len, rankings)]), 2))
    judged[:, :, 0] = _PADDING
    retrieved[:, :, 0] = _UNJUDGED
    for row, (query, numbers) in enumerate(zip(qrels, relevant, strict=True)):
        for document, number in numbers.items():
            judged[row, number] = number, qrels[query][document]
        for place, document in enumerate(rankings[row]):
            retrieved[row, place, 0] = numbers.get(document, _UNJUDGED)
    return judged, retrieved


def _relevant(judgments: Mapping[str, int], level: int) -> list[tuple[str, int]]:
    return sorted(((doc, grade) for doc, grade in judgments.items() if grade >= level), key=lambda pair: -pair[1])
