"""`ssmrank table results`: writes a table of results in LaTeX, CSV, Markdown and HTML, from metrics files."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ssmrank.commands.table import add_files, requested_files
from ssmrank.config.reading import read_settings
from ssmrank.config.table_settings import TableSettings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.reporting.caption import caption_of
from ssmrank.reporting.comparisons import read_comparisons
from ssmrank.reporting.costs import read_costs
from ssmrank.reporting.delimited import to_csv
from ssmrank.reporting.html import origins_of, to_html
from ssmrank.reporting.latex import to_latex
from ssmrank.reporting.markdown import to_markdown
from ssmrank.reporting.paper import read_paper
from ssmrank.reporting.results import read_results
from ssmrank.reporting.table import build_table

_RENDERINGS = {"tex": to_latex, "csv": to_csv, "markdown": to_markdown}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="the settings that `table_settings` makes: JSON or a file")
    parser.add_argument(
        "--metrics",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder with COLLECTION/SPLIT/RUN.json from `ssmrank evaluate`",
    )
    parser.add_argument("--significance", type=Path, help="CSV of `ssmrank table significance`, if settings ask for it")
    parser.add_argument("--costs", type=Path, help="file of `ssmrank measure costs`, for columns of costs")
    add_files(parser, page="page to write, with where each number comes from")


def run(arguments: argparse.Namespace) -> None:
    """Writes the requested files, once the whole table has been rendered without error."""
    outputs = requested_files(arguments)
    settings = read_settings(TableSettings, arguments.settings)
    if settings.alpha is not None and arguments.significance is None:
        raise UserError("the settings ask for tests; give --significance, the file of `ssmrank table significance`")
    name = next(iter(outputs.values())).stem
    keys = settings.metric_keys()
    results = read_results(arguments.metrics, keys)
    comparisons = read_comparisons(arguments.significance, settings.test) if arguments.significance else []
    costs = read_costs(arguments.costs) if arguments.costs else None
    table = build_table(settings, results, read_paper(), comparisons, costs)
    caption = caption_of(settings, results, table)
    table = replace(table, caption=f"{caption} {costs.sentence}" if costs else caption)
    texts = {path: _RENDERINGS[kind](table) for kind, path in outputs.items() if kind != "html"}
    if arguments.html is not None:
        texts[arguments.html] = to_html(table, origins_of(settings, results), name)
    for path, text in texts.items():
        with atomic_file(path) as stream:
            stream.write(text)
