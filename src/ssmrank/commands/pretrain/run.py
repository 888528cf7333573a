"""`ssmrank pretrain run`: pretrains a language model and writes its backbone as a checkpoint folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.commands.pretrain import add_options
from ssmrank.config.pretraining import PretrainSettings
from ssmrank.config.reading import read_settings
from ssmrank.pretraining.job import Job, read_data
from ssmrank.pretraining.rates import chosen_rate


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    add_options(parser)
    rate = parser.add_mutually_exclusive_group(required=True)
    rate.add_argument("--learning-rate", type=float, help="the highest of the schedule")
    rate.add_argument("--sweep", type=Path, help="file of `ssmrank pretrain sweep`, whose choice is taken")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes weights in bfloat16, config, tokenizer and pretraining.json (settings, stats and the loss curve)."""
    settings = read_settings(PretrainSettings, arguments.settings)
    learning_rate = arguments.learning_rate or chosen_rate(arguments.sweep)
    data = read_data(arguments.tokenizer, arguments.tokens, settings)
    job = Job(data, settings, learning_rate, arguments.state)
    curve, run_id = job.run("pretrain", arguments.output.name, arguments.save_seconds, arguments.stop_seconds)
    job.write(arguments.output, curve, run_id)
