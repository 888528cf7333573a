"""`ssmrank pretrain publish`: writes a pretrained model as a folder for publication, with a model card."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.pretraining import CardSettings
from ssmrank.config.reading import read_settings
from ssmrank.pretraining.publish import publish


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="label, corpus and its licence: inline JSON, or a file")
    parser.add_argument("--pretrained", type=Path, required=True, help="folder of `ssmrank pretrain run`")
    parser.add_argument(
        "--sweep", type=Path, required=True, help="file of `ssmrank pretrain sweep` that chose its learning rate"
    )
    parser.add_argument("--checkpoint", type=Path, help="folder of `ssmrank train`, which trained it as a reranker")
    parser.add_argument("--command", required=True, help="the command that made it, as the card names it")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes weights in bfloat16, config, tokenizer, pretraining.json, sweep.json and README.md."""
    settings = read_settings(CardSettings, arguments.settings)
    publish(settings, arguments.pretrained, arguments.sweep, arguments.checkpoint, arguments.command, arguments.output)
