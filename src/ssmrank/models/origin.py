"""What the files of a checkpoint record of where it came from.

A training records this of the model that it starts from. It is apart from the card's wording, whose changes must not
train anything again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssmrank.io.model_files import COMMITS_FILE, PRETRAINING_FILE, TRAINING_FILE
from ssmrank.models.reading import read_json, reading


def origin_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint folder's files say of where it came from; empty if they say nothing.

    Keys: hub (commit by repository), pretraining (tokens, corpus, objective), training (contents of `training.json`).
    Raises UserError if one of the files is damaged.
    """
    found: dict[str, Any] = {}
    if commits := read_if_there(folder, COMMITS_FILE):
        found["hub"] = commits
    if facts := read_if_there(folder, PRETRAINING_FILE):
        with reading(f"{folder / PRETRAINING_FILE}: was not written by `ssmrank pretrain run`"):
            corpus, tokens = facts["settings"]["corpus"], facts["curve"]["tokens"]
            found["pretraining"] = {"corpus": corpus, "tokens": tokens, "objective": facts["objective"]}
    if training := read_if_there(folder, TRAINING_FILE):
        found["training"] = training
    return found


def read_if_there(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of the folder; an empty one if there is no such file."""
    return read_json(folder / name) if (folder / name).is_file() else {}
