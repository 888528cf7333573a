"""`ssmrank table complexity`: writes complexities with measured exponents, from the benchmark's CSV (Table 6)."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.reporting.efficiency_tables import FORMS, complexity_table, read_timings


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--csv", type=Path, required=True, help="measurements of benchmarks/reranking.py")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help=f"files to write: {', '.join(FORMS)}")


def run(arguments: argparse.Namespace) -> None:
    """Writes the table in each form."""
    table = complexity_table(read_timings(arguments.csv, "lengths"))
    table.write(arguments.output)
