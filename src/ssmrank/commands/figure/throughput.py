"""`ssmrank figure throughput`: draws training throughput against batch size, from a benchmark's CSV."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.reporting.figures import draw_throughput, read_throughput


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument(
        "--csv", type=Path, required=True, help="measurements of benchmarks/training.py --suite figure1"
    )
    parser.add_argument("--output", type=Path, required=True, help="PDF to write")


def run(arguments: argparse.Namespace) -> None:
    """Draws the figure."""
    points, caption = read_throughput(arguments.csv)
    draw_throughput(points, caption, arguments.output)
