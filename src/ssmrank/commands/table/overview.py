"""`ssmrank table overview`: writes a table of models or of trainings in LaTeX, CSV, Markdown and HTML."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.commands.table import add_files, requested_files
from ssmrank.config.overview_settings import OverviewSettings
from ssmrank.config.reading import read_settings
from ssmrank.io.atomic import atomic_file
from ssmrank.reporting.overview import counted, to_csv, to_html, to_latex, to_markdown

_RENDERINGS = {"tex": to_latex, "csv": to_csv, "markdown": to_markdown, "html": to_html}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="the settings that `overview_settings` makes: JSON or a file")
    parser.add_argument("--models", type=Path, required=True, help="folder of the models whose parameters are counted")
    add_files(parser, page="page to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the table in each requested form."""
    outputs = requested_files(arguments)
    settings = counted(read_settings(OverviewSettings, arguments.settings), arguments.models)
    for kind, path in outputs.items():
        with atomic_file(path) as stream:
            stream.write(_RENDERINGS[kind](settings))
