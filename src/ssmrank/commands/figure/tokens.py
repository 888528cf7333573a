"""`ssmrank figure tokens`: draws quality against the tokens of a pair, with reuse and without."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.cost_settings import TokenFigureSettings
from ssmrank.config.reading import read_settings
from ssmrank.reporting.token_figure import draw_tokens, read_token_figure, write_points


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="title, metric and rows: inline JSON, or a file")
    parser.add_argument(
        "--output", type=Path, required=True, nargs="+", help="files to write: .svg, .pdf, .png, and .csv of the points"
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes the figure and its points, without rerankers that ran out of memory."""
    figure = read_token_figure(read_settings(TokenFigureSettings, arguments.settings))
    draw_tokens(figure, [output for output in arguments.output if output.suffix != ".csv"])
    for output in arguments.output:
        if output.suffix == ".csv":
            write_points(figure, output)
