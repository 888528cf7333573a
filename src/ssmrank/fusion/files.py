"""Fuses run files and fits weights on them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssmrank.config.fusions import FuseSettings, FuseWeightsSettings
from ssmrank.errors import UserError
from ssmrank.fusion.fuse import fuse, pool_files
from ssmrank.fusion.weights import fit_weights
from ssmrank.io.atomic import atomic_file
from ssmrank.io.trec import OUT_OF_MEMORY, is_out_of_memory, read_qrels, run_writer

log = logging.getLogger(__name__)


def fuse_files(
    settings: FuseSettings, runs: Sequence[Path], candidates: Path | None, weights_file: Path | None, output: Path
) -> None:
    """Writes the fused run. If a model of one of the runs did not fit in memory, the fused run says OOM too.

    candidates: see `pool_files`. weights_file: file of `fit_files`, used in place of the settings' weights.
    """
    if any(is_out_of_memory(path) for path in runs):
        with atomic_file(output) as stream:
            stream.write(OUT_OF_MEMORY + "\n")
        return
    weights = settings.weights or [1.0] * len(runs)
    if weights_file is not None:
        weights = read_weights(weights_file, len(runs))
    pools = pool_files(settings, runs, candidates)
    with run_writer(output, "-".join(output.stem.split())) as write:
        for query, ranking in fuse(pools, weights, settings.depth):
            write(query, ranking)
    log.info("%s: %d queries, weights %s", output, len(pools), ", ".join(f"{weight:g}" for weight in weights))


def fit_files(
    settings: FuseWeightsSettings, runs: Sequence[Path], candidates: Path | None, qrels: Path, output: Path
) -> None:
    """Writes the best weights, the metric's mean with them, and all weights that were tried.

    If a model of one of the runs did not fit in memory, `weights` is null and the file has no mean.
    """
    found: dict[str, Any] = {"runs": [path.as_posix() for path in runs], "metric": settings.metric, "weights": None}
    if any(is_out_of_memory(path) for path in runs):
        log.warning("%s: a model did not fit into memory, so there are no weights", output)
    else:
        pools = pool_files(settings, runs, candidates)
        fitted = fit_weights(pools, read_qrels(qrels), settings.metric, settings.steps, str(runs[-1]))
        tried = [{"weights": weights, "mean": mean} for weights, mean in fitted.tried.items()]
        found |= {"weights": fitted.weights, "mean": fitted.mean, "tried": tried}
        log.info("%s: weights %s, %s %.4f", output, fitted.weights, settings.metric, fitted.mean)
    with atomic_file(output) as stream:
        stream.write(json.dumps(found, indent=2) + "\n")


def check_runs(runs: Sequence[Path], weights: Sequence[float] | None) -> None:
    """Raises UserError for fewer than two runs, or another number of weights than runs."""
    if len(runs) < 2:
        raise UserError("--run: name at least two runs to fuse")
    if weights is not None and len(weights) != len(runs):
        raise UserError(f"--settings: {len(weights)} weights for {len(runs)} runs; give one for each")


def read_weights(path: Path, runs: int) -> list[float]:
    """Reads the weights that `ssmrank fuse weights` wrote. Raises UserError where it has none for that many runs."""
    try:
        weights = json.loads(path.read_text(encoding="utf-8"))["weights"]
        if weights is None or len(weights) != runs:
            raise UserError(f"{path}: has no weights for {runs} runs; fit weights on runs of the same systems")
        return [float(weight) for weight in weights]
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}; run `ssmrank fuse weights` to make it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: was not written by `ssmrank fuse weights`; delete it and make it again") from error
