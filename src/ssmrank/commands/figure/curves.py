"""`ssmrank figure curves`: draws training curves."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.reporting.curves import draw_curves, read_curve
from ssmrank.reporting.labels import labelled_path


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        action="extend",
        required=True,
        metavar="LABEL=FOLDER",
        help="folders that `ssmrank train` wrote; write --checkpoints=LABEL=FOLDER if the label begins with a dash",
    )
    parser.add_argument("--title", default="", help="shown above the figure")
    parser.add_argument("--output", type=Path, required=True, nargs="+", help="figures to write: .svg, .pdf, .png")


def run(arguments: argparse.Namespace) -> None:
    """Writes the figure in each format."""
    curves = [read_curve(*labelled_path(word, "--checkpoints")) for word in arguments.checkpoints]
    draw_curves(curves, arguments.title, arguments.output)
