"""`ssmrank download model`: writes a checkpoint folder from an archive, a folder, the hub or random weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.models import Model
from ssmrank.config.reading import read_settings
from ssmrank.models.sources import write_model


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="section of models: inline JSON, or a file")
    parser.add_argument("--archives", type=Path, required=True, help="folder that keeps downloaded archives")
    parser.add_argument("--tokenizer-from", type=Path, help="model folder whose tokenizer a random model takes")
    parser.add_argument("--embeddings-from", type=Path, help="model folder whose word embeddings a random model takes")
    parser.add_argument("--pretrained-from", type=Path, help="folder of `ssmrank pretrain run`, for a pretrained model")
    parser.add_argument("--seed", type=int, default=42, help="seed of random weights (default: 42)")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the checkpoint folder."""
    write_model(
        read_settings(Model, arguments.settings),
        output=arguments.output,
        archives=arguments.archives,
        tokenizer_from=arguments.tokenizer_from,
        embeddings_from=arguments.embeddings_from,
        pretrained_from=arguments.pretrained_from,
        seed=arguments.seed,
    )
