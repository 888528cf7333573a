"""`ssmrank pretrain-trial`: a short pretraining with one learning rate, for its loss on held-out text."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from ssmrank.io.atomic import atomic_file
from ssmrank.pretraining.job import add_options, prepare
from ssmrank.pretraining.loop import Diverged

log = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    add_options(parser)
    parser.add_argument("--learning-rate", type=float, required=True, help="the highest of the schedule")
    parser.add_argument("--train-tokens", type=int, required=True, help="tokens to train on")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes learning rate, curve and last held-out loss (null where the loss did not stay finite)."""
    job = prepare(arguments, arguments.learning_rate, arguments.train_tokens)
    name = f"{arguments.output.parent.name}/{arguments.output.stem}"
    result: dict = {"learning_rate": arguments.learning_rate, "held_out_loss": None}
    try:
        curve, _ = job.run("pretrain-trial", name, arguments.learning_rate)
        result |= {"held_out_loss": curve.held_out[-1][2], **vars(curve)}
    except Diverged as error:
        log.warning("%s: %s; the rate counts as too high", name, error)
    with atomic_file(arguments.output) as stream:
        stream.write(json.dumps(result) + "\n")
    job.state.clear()
