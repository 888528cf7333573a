"""`ssmrank table pdf`: typesets the LaTeX tables of `ssmrank table results` as PDF pages."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file, scratch_directory
from ssmrank.reporting.pdf import compile_pages


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--tex", type=Path, required=True, nargs="+", help="LaTeX files of `ssmrank table results`")
    parser.add_argument("--output", type=Path, required=True, help="PDF file to write")


def run(arguments: argparse.Namespace) -> None:
    """Compiles the pages in a temporary folder and writes the PDF."""
    tables = {}
    for path in arguments.tex:
        try:
            tables[path] = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot read: {error.strerror}; run `ssmrank table results` first") from error
    with scratch_directory() as folder:
        pdf = compile_pages(tables, folder)
        with atomic_file(arguments.output, "wb") as stream:
            stream.write(pdf)
