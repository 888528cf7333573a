"""`ssmrank figure efficiency`: quality against speed, with document reuse and without, as a figure."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.cost_settings import EfficiencySettings
from ssmrank.config.reading import read_settings
from ssmrank.errors import UserError
from ssmrank.reporting.efficiency_figure import Point, draw_efficiency, read_speed
from ssmrank.reporting.results import read_result
from ssmrank.tracking import track


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="title, metric and rows: inline JSON, or a file")
    parser.add_argument("--output", type=Path, required=True, help="PDF to write")


def run(arguments: argparse.Namespace) -> None:
    """Draws the figure; a reranker that ran out of memory is not on it."""
    settings = read_settings(EfficiencySettings, arguments.settings)
    points, places = [], set()
    for row in settings.rows:
        result = read_result(Path(row.metrics))
        if result.status == "oom":
            continue
        if settings.metric not in result.mean:
            raise UserError(f"{row.metrics}: holds no {settings.metric}; add it to evaluation.metrics")
        whole, reuse, measured = read_speed(Path(row.speed))
        points.append(Point(row.label, result.mean[settings.metric], whole, reuse))
        places.add(measured)
    with track("efficiency", arguments.output.stem, {}) as tracked:
        draw_efficiency(points, settings.metric, f"{settings.title}. {'; '.join(sorted(places))}", arguments.output)
        tracked.artifact_path("figure_path", arguments.output)
