"""`ssmrank figure differences`: draws the per-query differences between the rows of a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.reading import read_settings
from ssmrank.config.table_settings import TableSettings
from ssmrank.evaluation.per_query import PerQueryFiles
from ssmrank.reporting.differences import draw_differences, panels_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="the settings that `table_settings` makes: JSON or a file")
    parser.add_argument(
        "--per-query",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder with COLLECTION/SPLIT/RUN.json from `ssmrank evaluate`",
    )
    parser.add_argument("--output", type=Path, required=True, nargs="+", help="figures to write: .svg, .pdf, .png")


def run(arguments: argparse.Namespace) -> None:
    """Writes the figure in each format."""
    settings = read_settings(TableSettings, arguments.settings)
    draw_differences(*panels_of(settings, PerQueryFiles(arguments.per_query)), arguments.output)
