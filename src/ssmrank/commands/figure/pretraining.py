"""`ssmrank figure pretraining`: draws loss on held-out text against tokens, one line for each model."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.reporting.labels import labelled_path
from ssmrank.reporting.pretraining import draw_curves, read_curves


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument(
        "--models",
        nargs="+",
        action="extend",
        required=True,
        metavar="LABEL=FOLDER",
        help="folders of `ssmrank pretrain run`; write --models=LABEL=FOLDER if the label begins with a dash",
    )
    parser.add_argument("--output", type=Path, required=True, help="PDF to write")


def run(arguments: argparse.Namespace) -> None:
    """Draws the figure."""
    curves = read_curves([labelled_path(word, "--models") for word in arguments.models])
    draw_curves(curves, arguments.output)
