"""`ssmrank table5` and `ssmrank table6`: inference speed and complexity from the benchmark's CSV."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.io.atomic import atomic_file
from ssmrank.reporting.efficiency_tables import complexity_table, read_timings, speed_table


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("--csv", type=Path, required=True, help="measurements of benchmarks/reranking.py")
    parser.add_argument("--output", type=Path, required=True, help=".tex file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the table."""
    if arguments.verb == "table5":
        table = speed_table(read_timings(arguments.csv, "table5"))
    else:
        table = complexity_table(read_timings(arguments.csv, "lengths"))
    with atomic_file(arguments.output) as stream:
        stream.write(table.to_latex())
