"""Compares learning rates by a short pretraining with each."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssmrank.config.pretraining import PretrainSettings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.pretraining.job import Data, Job
from ssmrank.pretraining.loop import Diverged
from ssmrank.pretraining.rates import choose_rate

log = logging.getLogger(__name__)


def sweep_rates(
    rates: Iterable[float],
    data: Data,
    settings: PretrainSettings,
    state: Path,
    output: Path,
    save_seconds: float,
    stop_seconds: float | None,
) -> None:
    """Pretrains with each learning rate; writes the best rate and each rate's curve to a JSON file.

    state: folder of finished trials and of the state that a killed trial resumes from.
    save_seconds: seconds between saves of that state.
    stop_seconds: seconds after which the state is saved and `Stopped` is raised.

    Raises UserError where no rate gives a finite loss.
    """
    began = time.monotonic()
    trials = []
    for rate in sorted(rates):
        job = Job(data, settings, rate, state / f"{rate:g}")
        finished = state / f"{rate:g}-{job.fingerprint[:16]}.json"
        if (trial := _finished_trial(finished, rate)) is not None:
            trials.append(trial)
            continue
        left = None if stop_seconds is None else stop_seconds - (time.monotonic() - began)
        trials.append(_trial(job, f"{output.stem}/{rate:g}", save_seconds, left))
        with atomic_file(finished) as stream:
            stream.write(json.dumps(trials[-1]))
    losses = {trial["learning_rate"]: trial["held_out_loss"] for trial in trials}
    try:
        chosen = choose_rate(losses)
    except ValueError as error:
        raise UserError(f"{output.stem}: {error}; add lower ones to the sweep") from error
    if len(losses) > 2 and chosen in (min(losses), max(losses)):
        log.warning("learning rate %g is at the end of the sweep; a rate outside its range may be better", chosen)
    with atomic_file(output) as stream:
        stream.write(json.dumps({"learning_rate": chosen, "trials": trials}) + "\n")
    shutil.rmtree(state, ignore_errors=True)
    log.info("learning rate %g", chosen)


def _finished_trial(path: Path, rate: float) -> dict[str, Any] | None:
    """What `_trial` returned in an earlier job; None where the file is missing or holds something else."""
    try:
        trial = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_one = isinstance(trial, dict) and trial.get("learning_rate") == rate and "held_out_loss" in trial
    return trial if is_one else None


def _trial(job: Job, name: str, save_seconds: float, stop_seconds: float | None) -> dict[str, Any]:
    try:
        curve, _ = job.run("pretrain-sweep", name, save_seconds, stop_seconds)
    except Diverged as error:
        log.warning("%s: %s; the rate is taken as too high", name, error)
        return {"learning_rate": job.learning_rate, "held_out_loss": None}
    return {"learning_rate": job.learning_rate, "held_out_loss": curve.held_out[-1][2], **vars(curve)}
