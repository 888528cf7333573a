"""`ssmrank fuse run`: one TREC run from several."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from ssmrank.config.fusions import FuseSettings
from ssmrank.config.reading import read_settings
from ssmrank.errors import UserError
from ssmrank.fusion.fuse import fuse, pool_files
from ssmrank.io.atomic import atomic_file
from ssmrank.io.trec import OUT_OF_MEMORY, is_out_of_memory, run_writer
from ssmrank.tracking import track

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="method, k, depth, weights: inline JSON, or a file")
    add_runs(parser)
    parser.add_argument("--weights", type=Path, help="file that `ssmrank fuse weights` wrote, in place of settings'")
    parser.add_argument("--output", type=Path, required=True, help="TREC run to write")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The options that name what is fused."""
    parser.add_argument("--run", dest="runs", type=Path, nargs="+", required=True, help="TREC runs, two or more")
    parser.add_argument("--candidates", type=Path, help="only the first documents of each query in this run are fused")


def run(arguments: argparse.Namespace) -> None:
    """Writes the fused run; where a run is that of a model that did not fit in memory, so is the fused one."""
    settings = read_settings(FuseSettings, arguments.settings)
    output, runs = arguments.output, arguments.runs
    check_runs(runs, settings.weights)
    with track("fuse", str(output), {}, settings.model_dump() | {"runs": [str(path) for path in runs]}) as tracked:
        if any(is_out_of_memory(path) for path in runs):
            with atomic_file(output) as stream:
                stream.write(OUT_OF_MEMORY + "\n")
            return
        weights = settings.weights or [1.0] * len(runs)
        if arguments.weights is not None:
            weights = read_weights(arguments.weights, len(runs))
        pools = pool_files(settings, runs, arguments.candidates)
        with run_writer(output, "-".join(output.stem.split())) as write:
            for query, ranking in fuse(pools, weights, settings.depth):
                write(query, ranking)
        log.info("%s: %d queries, weights %s", output, len(pools), ", ".join(f"{weight:g}" for weight in weights))
        tracked.artifact_path("run_path", output)


def check_runs(runs: list[Path], weights: list[float] | None) -> None:
    """Raises UserError where nothing is fused, or weights are not one for each run."""
    if len(runs) < 2:
        raise UserError("--run: name at least two runs to fuse")
    if weights is not None and len(weights) != len(runs):
        raise UserError(f"--settings: {len(weights)} weights for {len(runs)} runs; give one for each")


def read_weights(path: Path, runs: int) -> list[float]:
    """The weights of so many runs that `ssmrank fuse weights` wrote; raises UserError where the file has none."""
    try:
        weights = json.loads(path.read_text(encoding="utf-8"))["weights"]
        if weights is None or len(weights) != runs:
            raise UserError(f"{path}: holds no weights of {runs} runs; fit them on runs of the same systems")
        return [float(weight) for weight in weights]
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}; run `ssmrank fuse weights` to make it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no file of `ssmrank fuse weights`; delete it and make it again") from error
