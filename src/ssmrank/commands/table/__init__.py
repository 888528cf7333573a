"""`ssmrank table`: writes tables of results, models and speed; here are the options that its subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.errors import UserError

_FILES = {
    "tex": "LaTeX file to write; needs booktabs",
    "csv": "CSV file to write",
    "markdown": "Markdown file to write",
}


def add_files(parser: argparse.ArgumentParser, page: str) -> None:
    """Adds an option for the file of each form; page: the help of the HTML page's."""
    for form, summary in (_FILES | {"html": page}).items():
        parser.add_argument(f"--{form}", type=Path, help=summary)


def requested_files(arguments: argparse.Namespace) -> dict[str, Path]:
    """The files to write, by form. Raises UserError if there are none."""
    files = {form: path for form in (*_FILES, "html") if (path := getattr(arguments, form)) is not None}
    if not files:
        raise UserError("nothing to write; give --tex, --csv, --markdown or --html")
    return files
