"""`ssmrank evaluate`: computes the metrics of a TREC run, as means and for each query, and writes them as JSON."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ssmrank.config.evaluation import Evaluation
from ssmrank.config.reading import read_settings
from ssmrank.errors import UserError
from ssmrank.evaluation.files import evaluate_file
from ssmrank.tracking import first_stage, run_of, track, untrained


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
    record = evaluate_file(
        arguments.run_file, arguments.qrels, settings.metrics, mean=arguments.output, per_query=arguments.per_query
    )
    _track(arguments, tags, record)


def _tag(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"--tag {text!r}: write it as KEY=VALUE")
    return key, value


def _track(arguments: argparse.Namespace, tags: dict[str, str], record: dict[str, Any]) -> None:
    run, model = str(record["run"]), tags.get("model")
    if arguments.mlflow_run is not None:
        resume = run_of(arguments.mlflow_run) or (untrained(model) if model else None)
    else:
        resume = first_stage(model) if model else None
    # A first stage is as old as its run, so that trainings, which come later, are above it in MLflow's list.
    began = arguments.run_file.stat().st_mtime if arguments.mlflow_run is None else None
    prefix = f"{arguments.prefix.rstrip('/')}/" if arguments.prefix else ""
    with track("evaluate", model or run, tags, resume=resume, began=began) as tracked:
        tracked.metrics({prefix + name: value for name, value in record["mean"].items()})
