"""Reads the modules of sentence-transformers' CrossEncoder that follow the transformer: pooling and linear layers.

Architectures without a classifier in transformers, such as Mamba, become cross-encoders in this way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ssmrank.errors import UserError
from ssmrank.models.backbones import Pooling
from ssmrank.models.heads import HeadSettings
from ssmrank.models.reading import read_json, read_tensors, reading

_POOLINGS: dict[str, Pooling] = {"cls": "first", "lasttoken": "last", "mean": "mean"}
_ACTIVATIONS = {"Identity": "linear", "Tanh": "tanh", "GELU": "gelu", "ReLU": "relu", "SiLU": "silu"}
"""transformers' names of torch's activations."""


def module_kinds(folder: Path) -> list[str]:
    """The class names of the modules in modules.json; without such a file there is none."""
    return [module["type"].rpartition(".")[2] for module in _modules(folder)]


def read_pooling(folder: Path) -> Pooling:
    """The pooling of the chain Transformer, Pooling, Dense. Raises UserError if there is none like it here."""
    file = folder / _modules(folder)[1]["path"] / "config.json"
    settings = read_json(file)
    modes = settings.get("pooling_mode") or [
        name.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")
        for name, value in settings.items()
        if name.startswith("pooling_mode_") and value is True
    ]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise UserError(f"{file}: pooling {', '.join(modes)} is not supported; known: {', '.join(_POOLINGS)}")
    return _POOLINGS[modes[0]]


def read_dense(folder: Path) -> tuple[HeadSettings | None, dict[str, Tensor]]:
    """The head of one or two Dense modules, and its weights by their names in `models.heads`.

    Raises UserError if the last one gives several scores or has an activation, or if one has residuals.
    """
    folders = [folder / module["path"] for module in _modules(folder)[2:]]
    every = [read_json(path / "config.json") for path in folders]
    activations = [str(one.get("activation_function", "")).rpartition(".")[2] for one in every]
    last = folders[-1] / "config.json"
    if every[-1].get("out_features") != 1 or activations[-1] != "Identity":
        raise UserError(f"{last}: only a last layer with one score and the activation Identity is supported")
    if any(one.get("use_residual") for one in every) or not {*activations} <= _ACTIVATIONS.keys():
        raise UserError(f"{folder}: its Dense modules have residuals or an activation that is not supported")
    weights: dict[str, Tensor] = {}
    for path, prefix in zip(folders, [""] if len(folders) == 1 else ["dense.", "out."], strict=True):
        tensors = read_tensors(path / "model.safetensors")
        if "linear.weight" not in tensors:
            raise UserError(f"{path / 'model.safetensors'}: has no linear.weight; get it again")
        weight = tensors["linear.weight"].float()
        weights[f"{prefix}weight"] = weight
        weights[f"{prefix}bias"] = tensors.get("linear.bias", weight.new_zeros(len(weight))).float()
    if len(folders) == 1:
        return None, weights
    return HeadSettings(_ACTIVATIONS[activations[0]], width=len(weights["dense.weight"])), weights


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.is_file():
        return []
    with reading(f"{path}: is not a list of modules"):
        modules = json.loads(path.read_text(encoding="utf-8"))
        places = [Path(module["path"]) for module in modules]
        if any(place.is_absolute() or ".." in place.parts for place in places):
            raise UserError(f"{path}: names folders outside its own; get it again")
        assert all(isinstance(module["type"], str) for module in modules)
    return modules
