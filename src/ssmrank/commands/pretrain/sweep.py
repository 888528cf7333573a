"""`ssmrank pretrain sweep`: runs short pretrainings with several learning rates and chooses the best rate."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.commands.pretrain import add_options
from ssmrank.config.pretraining import PretrainSettings, Sweep
from ssmrank.config.reading import read_settings
from ssmrank.pretraining.job import read_data
from ssmrank.pretraining.sweep import sweep_rates


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    add_options(parser)
    parser.add_argument("--sweep", required=True, help="learning rates and tokens of each: JSON or a file")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the chosen rate, and for each rate its curve and last held-out loss (null if it did not stay finite)."""
    sweep = read_settings(Sweep, arguments.sweep)
    settings = read_settings(PretrainSettings, arguments.settings).model_copy(update={"tokens": sweep.tokens})
    data = read_data(arguments.tokenizer, arguments.tokens, settings)
    rates, output = sweep.learning_rates, arguments.output
    sweep_rates(rates, data, settings, arguments.state, output, arguments.save_seconds, arguments.stop_seconds)
