"""Reads cross-encoders of transformers (`AutoModelForSequenceClassification`) and of sentence-transformers.

A score is the logit of the one label, before any activation: a sigmoid keeps the order and makes ties where it is flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from ssmrank.errors import UserError
from ssmrank.models.backbones import Pooling, is_causal, load_backbone, longest_input, read_backbone_config
from ssmrank.models.heads import HeadSettings
from ssmrank.models.module_chain import module_kinds, read_dense, read_pooling
from ssmrank.models.reading import NO_CODE, read_json, reading

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_CLASSIFIER = "ForSequenceClassification"
_OF_MODEL, _OF_TRANSFORMER = "config_sentence_transformers.json", "sentence_bert_config.json"
_LONGEST = 1_000_000
"""The longest input of a tokenizer that names no limit."""
_CAUSAL = ("gpt_neox", "llama", "opt", "qwen3")
KNOWN = ("bart", "bert", "electra", "modernbert", "roberta", *_CAUSAL)
"""Architectures whose classifiers in transformers are known here."""


@dataclass(frozen=True, eq=False)
class CrossEncoder:
    """A cross-encoder in the parts of a reranker; weights: those of the head, by their names in `models.heads`."""

    kind: Literal["E", "ED", "D"]
    max_length: int
    pooling: Pooling
    backbone: PreTrainedModel
    head: HeadSettings | None
    weights: dict[str, Tensor]


def is_cross_encoder(folder: Path) -> bool:
    """Whether the folder's config names a classifier of sequences, or sentence-transformers' files a CrossEncoder."""
    return _is_classifier(folder) or _read_if_there(folder / _OF_MODEL).get("model_type") == "CrossEncoder"


def read_cross_encoder(folder: Path, tokenizer: PreTrainedTokenizerBase) -> CrossEncoder:
    """The cross-encoder of a folder, with weights in float32.

    Raises UserError if it is none, has several labels or an unknown architecture, lacks weights, or reads anything but
    the pair of texts.
    """
    config = read_backbone_config(folder)
    _check_input(folder)
    chain = module_kinds(folder)
    if chain in (["Transformer", "Pooling", "Dense"], ["Transformer", "Pooling", "Dense", "Dense"]):
        pooling, (head, weights) = read_pooling(folder), read_dense(folder)
    elif chain not in ([], ["Transformer"]):
        raise UserError(
            f"{folder}: modules {', '.join(chain)}; known are one Transformer with a classifier, and Transformer, "
            "Pooling and one or two Dense"
        )
    else:
        pooling, head, weights = _read_classifier(folder, config)
    backbone = load_backbone(folder)
    backbone.config.architectures = [type(backbone).__name__]
    return CrossEncoder(
        kind="ED" if config.model_type == "bart" else "D" if is_causal(config) else "E",
        max_length=_max_length(folder, config, tokenizer),
        pooling=pooling,
        backbone=backbone,
        head=head,
        weights=weights,
    )


def _read_classifier(folder: Path, config: PreTrainedConfig) -> tuple[Pooling, HeadSettings | None, dict[str, Tensor]]:
    if not _is_classifier(folder):
        raise UserError(f"{folder}: config.json names no model that ends in {_CLASSIFIER}; give a cross-encoder")
    if config.model_type not in KNOWN:
        raise UserError(f"{folder}: {config.model_type} has no classifier that is known here ({', '.join(KNOWN)})")
    if config.num_labels != 1:
        raise UserError(f"{folder}: has {config.num_labels} labels; only a cross-encoder with one label gives a score")
    layers = layers_of(_classifier(folder, config))
    return _pooling(config), head_settings(layers), _weights(layers)


def _classifier(folder: Path, config: PreTrainedConfig) -> Any:
    from transformers import AutoModelForSequenceClassification

    options = {"dtype": torch.float32, "output_loading_info": True, **NO_CODE}
    with reading(f"{folder}: transformers cannot load its weights; get the whole checkpoint, or correct config.json"):
        model, report = AutoModelForSequenceClassification.from_pretrained(folder, config=config, **options)
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(f"{folder}: its weights lack {len(missing)}, such as {missing[0]}; get the whole checkpoint")
    return model


def _max_length(folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest input, as sentence-transformers has it."""
    own = _read_if_there(folder / _OF_TRANSFORMER).get("max_seq_length")
    positions = getattr(config, "max_position_embeddings", None)
    limits = [own or tokenizer.model_max_length, None if own else positions, longest_input(config), _LONGEST]
    return int(min(limit for limit in limits if limit is not None))


def _check_input(folder: Path) -> None:
    """Raises UserError if sentence-transformers' files say that anything but the pair of texts is read."""
    if "message" in (_read_if_there(folder / _OF_TRANSFORMER).get("modality_config") or {}):
        raise UserError(f"{folder / _OF_TRANSFORMER}: the model reads chat messages; only pairs of texts are supported")
    if _read_if_there(folder / _OF_MODEL).get("default_prompt_name"):
        raise UserError(f"{folder / _OF_MODEL}: a default prompt comes before each text; only pairs are supported")


def _is_classifier(folder: Path) -> bool:
    names = _read_if_there(folder / "config.json").get("architectures")
    return isinstance(names, list) and any(str(name).endswith(_CLASSIFIER) for name in names)


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


class Layers(NamedTuple):
    """The layers of a classifier of transformers after the pooling."""

    dense: Any
    norm: Any
    out: Any
    activation: str | None


def layers_of(model: Any) -> Layers:
    """The layers of a classifier whose architecture is known here; a causal one has the last layer alone."""
    kind = model.config.model_type
    if kind == "bert":
        return Layers(model.bert.pooler.dense, None, model.classifier, "tanh")
    if kind == "modernbert":
        return Layers(model.head.dense, model.head.norm, model.classifier, model.config.classifier_activation)
    if kind in _CAUSAL:
        return Layers(None, None, model.score, None)
    head = model.classification_head if kind == "bart" else model.classifier
    return Layers(head.dense, None, head.out_proj, "gelu" if kind == "electra" else "tanh")


def head_settings(layers: Layers) -> HeadSettings | None:
    """The layers before the last one, if there are any."""
    if layers.activation is None:
        return None
    return HeadSettings(layers.activation, None if layers.norm is None else layers.norm.eps)


def _weights(layers: Layers) -> dict[str, Tensor]:
    """Weights by their names in `models.heads`; a layer without a bias gets zeros."""
    named = {"dense.": layers.dense, "norm.": layers.norm, "out." if layers.dense is not None else "": layers.out}
    found: dict[str, Tensor] = {}
    for prefix, layer in named.items():
        if layer is not None:
            bias = layer.bias if layer.bias is not None else torch.zeros(len(layer.weight))
            found |= {f"{prefix}weight": layer.weight, f"{prefix}bias": bias}
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def _pooling(config: PreTrainedConfig) -> Pooling:
    if config.model_type == "modernbert" and config.classifier_pooling == "mean":
        return "mean"
    # BART's is the last token too: </s>, whose state in the decoder is scored.
    return "last" if config.model_type in (*_CAUSAL, "bart") else "first"
