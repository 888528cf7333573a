"""Writes a pretrained model as a folder to publish, with its model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ssmrank.config.pretraining import CardSettings
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_directory
from ssmrank.models.reranker import load_reranker
from ssmrank.pretraining.card import model_card


def publish(
    settings: CardSettings, pretrained: Path, sweep: Path, checkpoint: Path | None, command: str, output: Path
) -> None:
    """Writes weights in bfloat16, config, tokenizer, pretraining.json, sweep.json and README.md.

    pretrained: folder of `ssmrank pretrain run`.
    sweep: file of the sweep that chose its learning rate.
    checkpoint: of the reranker that was trained from it, whose weights are then written; None: the pretrained weights.
    command: the command that made the model, for the card.

    Raises UserError where a file cannot be read, or the reranker's training did not fit into memory.
    """
    facts = _read(pretrained / "pretraining.json")
    outcome = None if checkpoint is None else _read(checkpoint / "outcome.json")
    if outcome is not None and outcome["status"] == "oom":
        raise UserError(f"{checkpoint}: did not fit into memory in training, so there is nothing to publish")
    try:
        scores = {file: _read(Path(file))["mean"] for row in settings.scores for file in row.files.values()}
        card = model_card(facts, settings, command, outcome, scores)
    except KeyError as error:
        raise UserError(f"{pretrained}/pretraining.json: key {error} is missing; run the pretraining again") from error
    with atomic_directory(output) as folder:
        if checkpoint is None:
            for file in pretrained.iterdir():
                if file.suffix in {".json", ".safetensors"}:
                    shutil.copyfile(file, folder / file.name)
        else:
            load_reranker(checkpoint).to(torch.bfloat16).write(folder)
            shutil.copyfile(pretrained / "pretraining.json", folder / "pretraining.json")
        shutil.copyfile(sweep, folder / "sweep.json")
        (folder / "README.md").write_text(card, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); `ssmrank pretrain run`, `train` or `evaluate` makes it"
        ) from error
