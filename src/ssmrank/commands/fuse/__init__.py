"""`ssmrank fuse`: makes one TREC run from several; here are the options that its subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name the runs to fuse."""
    parser.add_argument("--run", dest="runs", type=Path, nargs="+", required=True, help="TREC runs, two or more")
    parser.add_argument("--candidates", type=Path, help="only the first documents of each query in this run are fused")
