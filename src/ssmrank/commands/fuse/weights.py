"""`ssmrank fuse weights`: weights for `ssmrank fuse run`, fitted on runs of judged queries."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from ssmrank.commands.fuse.run import add_runs, check_runs
from ssmrank.config.fusions import FuseWeightsSettings
from ssmrank.config.reading import read_settings
from ssmrank.fusion.fuse import pool_files
from ssmrank.fusion.weights import fit_weights
from ssmrank.io.atomic import atomic_file
from ssmrank.io.trec import is_out_of_memory, read_qrels
from ssmrank.tracking import track

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="method, k, depth, metric, steps: inline JSON, or a file")
    add_runs(parser)
    parser.add_argument("--qrels", type=Path, required=True, help="TREC qrels of the runs' queries")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the best weights and the metric's mean with all that were tried."""
    settings = read_settings(FuseWeightsSettings, arguments.settings)
    output, runs = arguments.output, arguments.runs
    check_runs(runs, None)
    found: dict[str, Any] = {"runs": [path.as_posix() for path in runs], "metric": settings.metric, "weights": None}
    with track("fuse-weights", str(output), {}, settings.model_dump() | {"runs": found["runs"]}) as tracked:
        if any(is_out_of_memory(path) for path in runs):
            log.warning("%s: a model did not fit in memory; there are no weights", output)
        else:
            pools = pool_files(settings, runs, arguments.candidates)
            fitted = fit_weights(pools, read_qrels(arguments.qrels), settings.metric, settings.steps, str(runs[-1]))
            tried = [{"weights": weights, "mean": mean} for weights, mean in fitted.tried.items()]
            found |= {"weights": fitted.weights, "mean": fitted.mean, "tried": tried}
            log.info("%s: weights %s, %s %.4f", output, fitted.weights, settings.metric, fitted.mean)
            tracked.metrics({settings.metric: fitted.mean})
        with atomic_file(output) as stream:
            stream.write(json.dumps(found, indent=2) + "\n")
