"""Where backbones come from."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from ssmrank.config import HubModel, Model, ModelArchive, ModelFolder, RandomModel
from ssmrank.errors import UserError
from ssmrank.io.archive import extract_folder, fetch_archive
from ssmrank.io.atomic import atomic_directory
from ssmrank.models.backbones import load_backbone, random_backbone, read_backbone_config
from ssmrank.models.reranker import load_tokenizer

log = logging.getLogger(__name__)

_CHECKPOINT_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]


def write_model(
    model: Model,
    output: Path,
    archives: Path,
    tokenizer_from: Path | None = None,
    embeddings_from: Path | None = None,
    seed: int = 42,
) -> None:
    """Writes a checkpoint folder (config, weights, tokenizer) that `load_backbone` reads; complete or absent."""
    source = model.source
    with atomic_directory(output) as temporary:
        if isinstance(source, ModelArchive):
            extract_folder(fetch_archive(source, archives), source.folder, temporary)
        elif isinstance(source, ModelFolder):
            _copy_folder(Path(source.path), temporary)
        elif isinstance(source, HubModel):
            _from_hub(source, temporary)
        else:
            _random(source, temporary, tokenizer_from, embeddings_from, seed)
        read_backbone_config(temporary)
    log.info("%s: written to %s", model.label, output)


def _copy_folder(folder: Path, target: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; correct the model's source.path")
    for pattern in _CHECKPOINT_FILES:
        for file in folder.glob(pattern):
            shutil.copy2(file, target)


def _from_hub(source: HubModel, target: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(source.id, revision=source.revision, local_dir=target, allow_patterns=_CHECKPOINT_FILES)
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model {source.id}: cannot be had from the hub ({reason}); check the id and the network, "
            "or give a folder as source"
        ) from error


def _random(
    source: RandomModel, target: Path, tokenizer_from: Path | None, embeddings_from: Path | None, seed: int
) -> None:
    if tokenizer_from is None:
        raise UserError("a random model needs --tokenizer-from: the folder of the model that source.tokenizer names")
    tokenizer = load_tokenizer(tokenizer_from)
    try:
        config = AutoConfig.for_model(**{"vocab_size": len(tokenizer), **_special_ids(tokenizer), **source.config})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"source.config: transformers cannot make a config of it: {error}") from error
    torch.manual_seed(seed)
    backbone = random_backbone(config)
    if embeddings_from is not None:
        _copy_embeddings(backbone, embeddings_from)
    backbone.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _special_ids(tokenizer: Any) -> dict[str, int | None]:
    # The defaults of transformers' configs are ids of other tokenizers.
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id,
    }


def _copy_embeddings(backbone: Any, folder: Path) -> None:
    pretrained: Any = load_backbone(folder)
    weights = pretrained.get_input_embeddings().weight.data
    target = backbone.get_input_embeddings().weight.data
    if weights.shape != target.shape:
        raise UserError(
            f"{folder}: word embeddings are {tuple(weights.shape)}, the random model's {tuple(target.shape)}; "
            "set hidden_size in source.config to match, or leave out source.embeddings"
        )
    target.copy_(weights)
