"""`ssmrank figure efficiency`: draws quality against speed, with document reuse and without."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.cost_settings import EfficiencySettings
from ssmrank.config.reading import read_settings
from ssmrank.reporting.efficiency_figure import draw_efficiency, read_points


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="title, metric and rows: inline JSON, or a file")
    parser.add_argument("--output", type=Path, required=True, help="PDF to write")


def run(arguments: argparse.Namespace) -> None:
    """Draws the figure without rerankers that ran out of memory."""
    settings = read_settings(EfficiencySettings, arguments.settings)
    points, caption = read_points(settings)
    draw_efficiency(points, settings.metric, caption, arguments.output)
