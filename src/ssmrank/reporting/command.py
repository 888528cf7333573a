"""`ssmrank table`: a table of results in LaTeX, CSV and Markdown, from metrics files."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config import TableSettings, read_settings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.reporting.delimited import to_csv
from ssmrank.reporting.latex import to_latex
from ssmrank.reporting.markdown import to_markdown
from ssmrank.reporting.paper import read_paper
from ssmrank.reporting.results import read_results
from ssmrank.reporting.table import build_table
from ssmrank.tracking import track

_RENDERINGS = {"tex": to_latex, "csv": to_csv, "markdown": to_markdown}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("--settings", required=True, help="JSON, or a file: what Params.table_settings gives")
    parser.add_argument(
        "--metrics", nargs="+", required=True, metavar="KEY=FILE", help="metrics file of each key of the settings"
    )
    parser.add_argument("--tex", type=Path, help="LaTeX file to write; needs booktabs")
    parser.add_argument("--csv", type=Path, help="CSV file to write")
    parser.add_argument("--markdown", type=Path, help="Markdown file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes what was asked for, after the whole table is known to be good."""
    outputs = {name: path for name in _RENDERINGS if (path := getattr(arguments, name)) is not None}
    if not outputs:
        raise UserError("nothing to write; give --tex, --csv or --markdown")
    settings = read_settings(TableSettings, arguments.settings)
    name = next(iter(outputs.values())).stem
    with track("table", name, {"table": name}, {"metrics": len(arguments.metrics)}) as tracked:
        table = build_table(settings, read_results(arguments.metrics, settings.metric_keys()), read_paper())
        texts = {path: _RENDERINGS[name](table) for name, path in outputs.items()}
        for path, text in texts.items():
            with atomic_file(path) as stream:
                stream.write(text)
            tracked.artifact_path(path.suffix.removeprefix("."), path)
