"""Evaluates a run file and writes the means and the per-query values as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssmrank.evaluation.metrics import MetricValues, evaluate
from ssmrank.io.atomic import atomic_file
from ssmrank.io.trec import Qrels, is_out_of_memory, read_qrels, read_run

log = logging.getLogger(__name__)


def evaluate_file(run: Path, qrels: Path, metrics: Sequence[str], *, mean: Path, per_query: Path) -> dict[str, Any]:
    """Writes the means to `mean` and the values of each query to `per_query`; logs and returns the means' record."""
    judgments = read_qrels(qrels)
    if is_out_of_memory(run):
        scores = None
        log.warning("%s: the model did not fit in memory; its metrics are OOM", run)
    else:
        scores = evaluate(judgments, read_run(run), metrics, str(run))
        _report(scores, judgments)
    record = summary(run, scores, len(judgments))
    _write(per_query, scores.per_query if scores else {})
    _write(mean, record)
    return record


def summary(run_file: Path, scores: MetricValues | None, queries: int) -> dict[str, Any]:
    """The record in the file of means; `scores` is None where the model did not fit in memory."""
    return {
        "run": run_file.as_posix(),
        "status": "ok" if scores else "oom",
        "queries": queries,
        "queries_without_results": scores.queries_without_results if scores else queries,
        "mean": scores.mean() if scores else {},
    }


def _report(scores: MetricValues, qrels: Qrels) -> None:
    if scores.queries_without_results:
        log.warning("%d of %d queries have no results; they count 0", scores.queries_without_results, len(qrels))
    irrelevant = sum(1 for judgments in qrels.values() if all(grade < 1 for grade in judgments.values()))
    if irrelevant:
        log.warning("%d of %d queries have no relevant document; they count 0", irrelevant, len(qrels))
    log.info("%s", ", ".join(f"{name} {value:.4f}" for name, value in scores.mean().items()))


def _write(path: Path, values: dict[str, Any]) -> None:
    with atomic_file(path) as stream:
        stream.write(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
