"""`ssmrank table comparison`: compares TREC runs with ranx and writes its report."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.comparison_settings import ComparisonSettings
from ssmrank.config.reading import read_settings
from ssmrank.errors import UserError
from ssmrank.evaluation.ranx_report import compare_files
from ssmrank.reporting.labels import labelled_path


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="JSON, or a file: metrics, test, alpha, permutations, seed")
    parser.add_argument(
        "--run",
        dest="runs",
        action="extend",
        nargs="+",
        required=True,
        metavar="LABEL=FILE",
        help="TREC runs with the names that the report gives them, two or more",
    )
    parser.add_argument("--qrels", type=Path, required=True, help="TREC qrels of the runs' queries")
    parser.add_argument("--output", type=Path, required=True, help="text file for ranx's table")
    parser.add_argument("--json", type=Path, help="JSON file for all values, p values and wins")


def run(arguments: argparse.Namespace) -> None:
    """Writes both files."""
    settings = read_settings(ComparisonSettings, arguments.settings)
    compare_files(settings, arguments.qrels, _labelled(arguments.runs), text=arguments.output, values=arguments.json)


def _labelled(words: list[str]) -> dict[str, Path]:
    """The files by their labels. Raises UserError for words that are not LABEL=FILE, and for equal labels."""
    runs: dict[str, Path] = {}
    for word in words:
        label, file = labelled_path(word, "--run", "FILE")
        if not label.strip():
            raise UserError(f"--run {word!r}: write it as LABEL=FILE")
        if label in runs:
            raise UserError(f"--run {word!r}: another run has the label {label!r} too; rename one")
        runs[label] = file
    return runs
