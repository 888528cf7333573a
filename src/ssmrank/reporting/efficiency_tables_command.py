"""`ssmrank table5` and `ssmrank table6`: inference speed and complexity from the benchmark's CSV."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.reporting.efficiency_tables import PlainTable, complexity_table, read_timings, speed_table
from ssmrank.tracking import track

_FORMS = {
    ".tex": PlainTable.to_latex,
    ".csv": PlainTable.to_csv,
    ".md": PlainTable.to_markdown,
    ".html": PlainTable.to_html,
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("--csv", type=Path, required=True, help="measurements of benchmarks/reranking.py")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help=f"files to write: {', '.join(_FORMS)}")


def run(arguments: argparse.Namespace) -> None:
    """Writes the table in each form."""
    if arguments.verb == "table5":
        table = speed_table(read_timings(arguments.csv, "table5"))
    else:
        table = complexity_table(read_timings(arguments.csv, "lengths"))
    for path in arguments.output:
        if path.suffix not in _FORMS:
            raise UserError(f"--output {path}: the name must end in one of {', '.join(_FORMS)}")
    with track(arguments.verb, arguments.output[0].stem, {"table": arguments.output[0].stem}) as tracked:
        for path in arguments.output:
            with atomic_file(path) as stream:
                stream.write(_FORMS[path.suffix](table))
        tracked.artifact_path("table_path", arguments.output[0])
