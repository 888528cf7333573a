"""Metrics of a run by ir_measures, which asks trec_eval's own code (pytrec_eval) for most of them.

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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import ir_measures
import numpy as np

from ssmrank.config.metrics import parse_metric
from ssmrank.errors import UserError
from ssmrank.io.trec import Qrels, Run, sort_ranking

_QUERIES_AT_ONCE = 500
"""ir_measures copies judgments and rankings; so many queries are copied at a time."""


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
    measures = {name: _measure(name) for name in metrics}
    if not qrels:
        raise UserError(f"{run_name}: the qrels have no query; check the qrels file")
    if run and not run.keys() & qrels.keys():
        raise UserError(
            f"{run_name}: none of its {len(run)} queries (such as {next(iter(run))}) is among the {len(qrels)} of the "
            f"qrels (such as {next(iter(qrels))}); give the qrels of the same collection and split"
        )
    found = {measure: dict.fromkeys(qrels, 0.0) for measure in measures.values()}
    without_results = 0
    for queries in _parts(qrels, _QUERIES_AT_ONCE):
        judged = {query: _grades(qrels[query]) for query in queries}
        ranked = {query: _by_rank(ranking) for query in queries if (ranking := sort_ranking(run.get(query, ())))}
        without_results += len(queries) - len(ranked)
        for value in ir_measures.iter_calc(list(found), judged, ranked):
            found[value.measure][value.query_id] = float(value.value)
    per_query = {name: dict(found[measure]) for name, measure in measures.items()}
    return MetricValues(list(qrels), per_query, without_results)


def mean_metric(qrels: Qrels, run: Run, metric: str, run_name: str = "the run") -> float:
    """The mean of one metric over all queries of the qrels; errors as `evaluate`."""
    return evaluate(qrels, run, [metric], run_name).mean()[metric]


def _measure(name: str) -> ir_measures.Measure:
    try:
        return ir_measures.parse_measure(str(parse_metric(name)))
    except ValueError as error:
        raise UserError(str(error)) from error


def _parts(names: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(names)
    while part := list(islice(rest, size)):
        yield part


def _grades(judgments: Mapping[str, int]) -> dict[str, int]:
    """The grades as pytrec_eval takes them: it writes out of bounds for those below -1, which mean the same as -1."""
    return {document: max(grade, -1) for document, grade in judgments.items()}


def _by_rank(ranking: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Scores that fall by one with each rank, so that no measure orders ties in a way of its own."""
    return {document: float(len(ranking) - rank) for rank, (document, _) in enumerate(ranking)}
