"""`ssmrank fuse run`: fuses several TREC runs into one."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.commands.fuse import add_runs
from ssmrank.config.fusions import FuseSettings
from ssmrank.config.reading import read_settings
from ssmrank.fusion.files import check_runs, fuse_files
from ssmrank.tracking.run_metadata import RunMethod, described


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="method, k, depth, weights: inline JSON, or a file")
    add_runs(parser)
    parser.add_argument("--weights", type=Path, help="file that `ssmrank fuse weights` wrote, in place of settings'")
    parser.add_argument("--output", type=Path, required=True, help="TREC run to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the fused run."""
    settings = read_settings(FuseSettings, arguments.settings)
    output, runs = arguments.output, arguments.runs
    check_runs(runs, settings.weights)
    step = {"name": output.stem, "method": f"fusion by {settings.method}", "depth": settings.depth}
    if settings.weights is not None:
        step["weight"] = settings.weights
    with described(arguments, RunMethod(step, reads=runs, relation="interpolates")):
        fuse_files(settings, runs, arguments.candidates, arguments.weights, output)
