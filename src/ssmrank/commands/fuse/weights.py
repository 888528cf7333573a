"""`ssmrank fuse weights`: fits the weights for `ssmrank fuse run` on runs of judged queries."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.commands.fuse import add_runs
from ssmrank.config.fusions import FuseWeightsSettings
from ssmrank.config.reading import read_settings
from ssmrank.fusion.files import check_runs, fit_files


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="method, k, depth, metric, steps: inline JSON, or a file")
    add_runs(parser)
    parser.add_argument("--qrels", type=Path, required=True, help="TREC qrels of the runs' queries")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the best weights, and the mean of the metric for all weights that were tried."""
    settings = read_settings(FuseWeightsSettings, arguments.settings)
    check_runs(arguments.runs, None)
    fit_files(settings, arguments.runs, arguments.candidates, arguments.qrels, arguments.output)
