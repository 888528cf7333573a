"""`ssmrank choose-rate`: the learning rate of the trial with the lowest loss on held-out text."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.pretraining.rates import choose_rate

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("--trials", type=Path, nargs="+", required=True, help="files of `ssmrank pretrain-trial`")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the chosen rate and the losses of all."""
    losses: dict[float, float | None] = {}
    for path in arguments.trials:
        try:
            trial = json.loads(path.read_text(encoding="utf-8"))
            losses[trial["learning_rate"]] = trial["held_out_loss"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: is no file of `ssmrank pretrain-trial` ({error})") from error
    try:
        chosen = choose_rate(losses)
    except ValueError as error:
        raise UserError(f"{arguments.trials[0].parent}: {error}; add lower ones to the sweep") from error
    if len(losses) > 2 and chosen in (min(losses), max(losses)):
        log.warning("learning rate %g is at the end of the sweep; a rate beyond it may be better", chosen)
    with atomic_file(arguments.output) as stream:
        trials = [{"learning_rate": rate, "held_out_loss": losses[rate]} for rate in sorted(losses)]
        stream.write(json.dumps({"learning_rate": chosen, "trials": trials}, indent=2) + "\n")
    log.info("learning rate %g", chosen)
