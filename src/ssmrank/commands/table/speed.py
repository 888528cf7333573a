"""`ssmrank table speed`: writes inference speed beside the paper's, from the benchmark's CSV (Table 5)."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.reporting.efficiency_tables import FORMS, read_timings, speed_table


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--csv", type=Path, required=True, help="measurements of benchmarks/reranking.py")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help=f"files to write: {', '.join(FORMS)}")


def run(arguments: argparse.Namespace) -> None:
    """Writes the table in each form."""
    table = speed_table(read_timings(arguments.csv, "table5"))
    table.write(arguments.output)
