"""`ssmrank fuse weights`: fits the weights for `ssmrank fuse run` on runs of judged queries."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.commands.fuse import add_runs
from ssmrank.config.fusions import FuseWeightsSettings
from ssmrank.config.reading import read_settings
from ssmrank.fusion.files import check_runs, fit_files
from ssmrank.tracking import track


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="method, k, depth, metric, steps: inline JSON, or a file")
    add_runs(parser)
    parser.add_argument("--qrels", type=Path, required=True, help="TREC qrels of the runs' queries")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the best weights, and the mean of the metric for all weights that were tried."""
    settings = read_settings(FuseWeightsSettings, arguments.settings)
    output, runs = arguments.output, arguments.runs
    check_runs(runs, None)
    params = settings.model_dump() | {"runs": [path.as_posix() for path in runs]}
    with track("fuse-weights", str(output), {}, params) as tracked:
        mean = fit_files(settings, runs, arguments.candidates, arguments.qrels, output)
        if mean is not None:
            tracked.metrics({settings.metric: mean})
