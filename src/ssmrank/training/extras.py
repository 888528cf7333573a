"""Packages that only some trainings need: those of the extra `finetune`."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any

from ssmrank.config.trainings import TrainSettings
from ssmrank.errors import UserError


def check_installed(settings: TrainSettings) -> None:
    """Raises UserError if a package is missing that this training needs, before a model is read."""
    needed = {"lora": "peft"} if settings.lora is not None else {}
    if settings.optimizer_states == "8bit":
        needed["optimizer_states: 8bit"] = "bitsandbytes"
    for key, name in needed.items():
        if importlib.util.find_spec(name) is None:
            raise UserError(f"trainings: {key} needs {name}, which is not installed; pip install 'ssmrank[finetune]'")


def import_quietly(name: str) -> Any:
    """The module `name`, without what it logs while it is imported."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # bitsandbytes warns of kernels that it does not find
    try:
        return importlib.import_module(name)
    finally:
        logging.disable(disabled)
