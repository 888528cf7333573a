"""Which architectures can be reranked with, and how each runs on a packed batch.

A new architecture is one entry in `FORWARDS`; one that attends through transformers' attention interface and takes
position ids needs no code of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from ssmrank.errors import UserError
from ssmrank.models import attention
from ssmrank.models.mamba import mamba1_forward, mamba2_forward
from ssmrank.models.packing import Packed


def attention_forward(backbone: Any, packed: Packed) -> torch.Tensor:
    """Last hidden states [T, hidden size] of a model that attends through transformers' attention interface."""
    output = backbone(
        input_ids=packed.input_ids[None], position_ids=packed.position_ids[None], use_cache=False, packed=packed
    )
    return output.last_hidden_state[0]


FORWARDS: dict[str, Callable[[Any, Packed], torch.Tensor]] = {
    "bert": attention_forward,
    "electra": attention_forward,
    "opt": attention_forward,
    "llama": attention_forward,
    "mamba": mamba1_forward,
    "mamba2": mamba2_forward,
}
"""For each model type of transformers its packed forward."""

_NO_POOLER = {"bert"}


def load_backbone(folder: str | Path) -> PreTrainedModel:
    """A checkpoint folder's backbone in float32, ready for `packed_forward`."""
    config = read_backbone_config(folder)
    options: dict[str, Any] = {"add_pooling_layer": False} if config.model_type in _NO_POOLER else {}
    return AutoModel.from_pretrained(folder, config=config, dtype=torch.float32, **_attention(config), **options)


def random_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone of this shape with random weights (transformers' own initialisation), from torch's generator."""
    _check_type(config.model_type, "config")
    options: dict[str, Any] = {"add_pooling_layer": False} if config.model_type in _NO_POOLER else {}
    return AutoModel.from_config(config, dtype=torch.float32, **_attention(config), **options)


def read_backbone_config(folder: str | Path) -> PreTrainedConfig:
    """The config of a checkpoint folder. Raises UserError where it is missing or of an unknown architecture."""
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder}: holds no config.json; a checkpoint folder has config, weights and tokenizer")
    config = AutoConfig.from_pretrained(folder)
    _check_type(config.model_type, f"{folder}/config.json")
    return config


def packed_forward(backbone: Any, packed: Packed) -> torch.Tensor:
    """Last hidden states [T, hidden size] of a packed batch: equal to running each sequence alone."""
    return FORWARDS[backbone.config.model_type](backbone, packed)


def _attention(config: PreTrainedConfig) -> dict[str, str]:
    return {} if config.model_type.startswith("mamba") else {"attn_implementation": attention.NAME}


def _check_type(model_type: str, where: str) -> None:
    if model_type not in FORWARDS:
        raise UserError(f"{where}: model_type {model_type!r} has no packed forward; known: {', '.join(FORWARDS)}")
