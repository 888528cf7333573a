"""`ssmrank table significance`: computes paired tests between the rows of a table and writes them as CSV."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ssmrank.config.reading import read_settings
from ssmrank.config.table_settings import SignificanceSettings
from ssmrank.evaluation.comparisons import compare, write_comparisons
from ssmrank.evaluation.per_query import PerQueryFiles

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="the settings of `significance_settings`: JSON or a file")
    parser.add_argument(
        "--per-query",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder with COLLECTION/SPLIT/RUN.json from `ssmrank evaluate`",
    )
    parser.add_argument("--output", type=Path, required=True, help="CSV file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes a line for each comparison and column, except for rows of models that did not fit into memory."""
    settings = read_settings(SignificanceSettings, arguments.settings)
    lines = compare(settings, PerQueryFiles(arguments.per_query))
    write_comparisons(arguments.output, lines)
    log.info("%s: %d comparisons", arguments.output, len(lines))
