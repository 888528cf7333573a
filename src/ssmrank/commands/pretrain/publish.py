"""`ssmrank pretrain publish`: a pretrained model as a folder that can be given away, with its model card."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ssmrank.config.pretraining import CardSettings
from ssmrank.config.reading import read_settings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.models.reranker import load_reranker
from ssmrank.pretraining.card import model_card
from ssmrank.tracking import track


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
    facts = _read(arguments.pretrained / "pretraining.json")
    outcome = None if arguments.checkpoint is None else _read(arguments.checkpoint / "outcome.json")
    if outcome is not None and outcome["status"] == "oom":
        raise UserError(f"{arguments.checkpoint}: did not fit into memory in training, so there is nothing to publish")
    try:
        scores = {file: _read(Path(file))["mean"] for row in settings.scores for file in row.files.values()}
        card = model_card(facts, settings, arguments.command, outcome, scores)
    except KeyError as error:
        raise UserError(f"{arguments.pretrained}/pretraining.json: key {error} is missing; pretrain again") from error
    tags = {"model": settings.label}
    with track("publish-model", str(arguments.output), tags), atomic_directory(arguments.output) as folder:
        if arguments.checkpoint is None:
            for file in arguments.pretrained.iterdir():
                if file.suffix in {".json", ".safetensors"}:
                    shutil.copyfile(file, folder / file.name)
        else:
            load_reranker(arguments.checkpoint).to(torch.bfloat16).write(folder)
            shutil.copyfile(arguments.pretrained / "pretraining.json", folder / "pretraining.json")
        shutil.copyfile(arguments.sweep, folder / "sweep.json")
        (folder / "README.md").write_text(card, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); `ssmrank pretrain run`, `train` or `evaluate` makes it"
        ) from error
