"""`ssmrank evaluate`: the metrics of a TREC run as JSON, means and values of each query."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from ssmrank.config.evaluation import Evaluation
from ssmrank.config.reading import read_settings
from ssmrank.errors import UserError
from ssmrank.evaluation.metrics import MetricValues, evaluate
from ssmrank.io.atomic import atomic_file
from ssmrank.io.trec import Qrels, is_out_of_memory, read_qrels, read_run

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="JSON, or a file: metrics")
    parser.add_argument("--run", dest="run_file", type=Path, required=True, help="TREC run, or one line `# OOM`")
    parser.add_argument("--qrels", type=Path, required=True, help="TREC qrels")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the means")
    parser.add_argument("--per-query", type=Path, required=True, help="JSON file for the values of each query")
    parser.add_argument(
        "--mlflow-run",
        type=Path,
        metavar="FILE",
        help="file with the id of the MLflow run that trained the model; it gets the metrics; may be absent",
    )
    parser.add_argument(
        "--prefix", default="", help="before the names of the metrics in MLflow, such as semanlink/test/bm25-top30"
    )
    parser.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="tag of the MLflow run; may be repeated"
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes both files and logs the means."""
    settings = read_settings(Evaluation, arguments.settings)
    tags = dict(_tag(text) for text in arguments.tag)
    qrels = read_qrels(arguments.qrels)
    if is_out_of_memory(arguments.run_file):
        scores = None
        log.warning("%s: the model did not fit in memory; its metrics are OOM", arguments.run_file)
    else:
        run_of_queries = read_run(arguments.run_file)
        scores = evaluate(qrels, run_of_queries, settings.metrics, str(arguments.run_file))
        _report(scores, qrels)
    record = summary(arguments.run_file, scores, len(qrels))
    _write(arguments.per_query, scores.per_query if scores else {})
    _write(arguments.output, record)
    _track(arguments, settings, tags, record)


def summary(run_file: Path, scores: MetricValues | None, queries: int) -> dict[str, Any]:
    """What the file of means holds; `scores` is None where the model did not fit in memory."""
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


def _tag(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"--tag {text!r}: write it as KEY=VALUE")
    return key, value


def _track(arguments: argparse.Namespace, settings: Evaluation, tags: dict[str, str], record: dict[str, Any]) -> None:
    from ssmrank.tracking import track

    resume = None
    if arguments.mlflow_run is not None and arguments.mlflow_run.exists():
        resume = arguments.mlflow_run.read_text(encoding="utf-8").strip() or None
    # A continued run keeps its own name, tags and parameters; one without a training is a run of its own.
    parameters = {} if resume else {"metrics": ", ".join(settings.metrics)}
    prefix = f"{arguments.prefix.rstrip('/')}/" if arguments.prefix else ""
    with track("evaluate", str(record["run"]), tags, parameters, resume=resume) as tracked:
        tracked.metrics({prefix + name: value for name, value in record["mean"].items()})
