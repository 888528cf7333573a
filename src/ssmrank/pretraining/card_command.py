"""`ssmrank model-card`: the README.md of a pretrained model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ssmrank.config import CardSettings, read_settings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.pretraining.card import model_card


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("--settings", required=True, help="label, corpus and its licence: inline JSON, or a file")
    parser.add_argument("--model", type=Path, required=True, help="folder of `ssmrank pretrain`")
    parser.add_argument("--command", required=True, help="the command that made it, as the card names it")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the card."""
    settings = read_settings(CardSettings, arguments.settings)
    path = arguments.model / "pretraining.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        card = model_card(facts, settings, arguments.command)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as what `ssmrank pretrain` writes ({error})") from error
    with atomic_file(arguments.output) as stream:
        stream.write(card)
