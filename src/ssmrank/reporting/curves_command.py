"""`ssmrank curves`: a figure of training curves."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.reporting.curves import draw_curves, read_curve
from ssmrank.tracking import track


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument(
        "--checkpoints", nargs="+", required=True, metavar="LABEL=FOLDER", help="folders that `ssmrank train` wrote"
    )
    parser.add_argument("--title", default="", help="stands above the figure")
    parser.add_argument("--output", type=Path, required=True, nargs="+", help="figures to write: .svg, .pdf, .png")


def run(arguments: argparse.Namespace) -> None:
    """Writes the figure in each format."""
    curves = []
    for word in arguments.checkpoints:
        label, separator, folder = word.partition("=")
        if not separator or not folder:
            raise UserError(f"--checkpoints {word!r}: write it as LABEL=FOLDER")
        curves.append(read_curve(label, Path(folder)))
    name = arguments.output[0].stem
    with track("curves", name, {"training": name}) as tracked:
        draw_curves(curves, arguments.title, arguments.output)
        tracked.artifact_path("figure", arguments.output[0])
