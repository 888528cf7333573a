"""Which architectures can be reranked with, and how each runs on a packed batch.

A new architecture is one entry in `FORWARDS`; one that attends through transformers' attention interface and takes
position ids needs no code of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.bert.modeling_bert import BertOutput, BertSelfOutput
from transformers.models.electra.modeling_electra import ElectraOutput, ElectraSelfOutput
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.roberta.modeling_roberta import RobertaOutput, RobertaSelfOutput

from ssmrank.errors import UserError
from ssmrank.kernels.norms import add_layer_norm, rms_norm
from ssmrank.models import attention, last_layer, mamba_ssm_format
from ssmrank.models.bart import bart_first, bart_forward
from ssmrank.models.mamba import mamba1_forward, mamba2_forward
from ssmrank.models.packing import Packed
from ssmrank.models.reading import NO_CODE, read_json, reading

Pooling = Literal["first", "last", "mean"]


def attention_forward(backbone: Any, packed: Packed) -> torch.Tensor:
    """Last hidden states [T, hidden size] of a model that attends through transformers' attention interface."""
    return _attention_forward(backbone, packed, packed.position_ids)


def roberta_forward(backbone: Any, packed: Packed) -> torch.Tensor:
    """As `attention_forward`; RoBERTa's positions begin behind the padding token's id."""
    return _attention_forward(backbone, packed, packed.position_ids + _position_offset(backbone.config))


def _attention_forward(backbone: Any, packed: Packed, position_ids: torch.Tensor) -> torch.Tensor:
    output = backbone(input_ids=packed.input_ids[None], position_ids=position_ids[None], use_cache=False, packed=packed)
    return output.last_hidden_state.squeeze(0)


FORWARDS: dict[str, Callable[[Any, Packed], torch.Tensor]] = {
    "bert": attention_forward,
    "roberta": roberta_forward,
    "electra": attention_forward,
    "bart": bart_forward,
    "opt": attention_forward,
    "llama": attention_forward,
    "mamba": mamba1_forward,
    "mamba2": mamba2_forward,
}
"""For each model type of transformers its packed forward."""

_FIRST = {"bart": bart_first}
"""Where the first token's state alone costs less than all of them."""

_HAS_POOLER = {"bert", "roberta"}
_OF_A_LAYER = re.compile(r"(^|\.)layers?\.[0-9]+\.(?!.*rotary_emb)")
"""A weight that a model of more layers has; old Llamas keep tables of their rotations in each."""
_LEARNED_POSITIONS = {"bert", "roberta", "electra", "bart", "opt"}


def load_backbone(folder: str | Path) -> PreTrainedModel:
    """A checkpoint folder's backbone in float32, ready for `packed_forward`.

    Reads transformers' layout and that of `mamba_ssm`. Raises UserError where weights are missing or of other shapes.
    """
    config = read_backbone_config(folder)
    if mamba_ssm_format.is_original(_read_json(folder)):
        return mamba_ssm_format.load(folder)
    options: dict[str, Any] = {"add_pooling_layer": False} if config.model_type in _HAS_POOLER else {}
    options |= {"dtype": torch.float32, "output_loading_info": True, **_attention(config), **NO_CODE}
    with reading(f"{folder}: transformers cannot load its weights; get the whole checkpoint, or correct config.json"):
        backbone, report = AutoModel.from_pretrained(folder, config=config, **options)
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"{folder}: its weights lack {len(missing)} that config.json asks for, such as {', '.join(missing[:3])}; "
            "get the whole checkpoint, or correct config.json"
        )
    left = sorted(name for name in report["unexpected_keys"] if _OF_A_LAYER.search(name))
    if left:
        raise UserError(
            f"{folder}: config.json has no place for {len(left)} of its weights, such as {left[0]}; correct the number "
            "of layers there"
        )
    return _with_own_norms(backbone)


def random_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone of this shape with random weights (transformers' own initialisation), from torch's generator."""
    _check_known(config, "config")
    options: dict[str, Any] = {"add_pooling_layer": False} if config.model_type in _HAS_POOLER else {}
    with reading("config: transformers cannot make a model of it; correct its values"):
        backbone = AutoModel.from_config(config, dtype=torch.float32, **_attention(config), **NO_CODE, **options)
    return _with_own_norms(backbone)


def unread_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone of this shape whose weights are yet to be read: none is drawn, which takes a large model seconds."""
    with no_init_weights():
        backbone = random_backbone(config)
    backbone.tie_weights()  # is left out with the initialisation
    return backbone


class _RMSNorm(LlamaRMSNorm):
    """Llama's norm in one kernel, not in seven."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class _LayerNorm(torch.nn.LayerNorm):
    """PyTorch's layer norm, with a faster backward pass on a GPU."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return add_layer_norm(hidden_states, None, self.weight, self.bias, self.eps)


class _AddNorm:
    """BERT's layer norm of what a layer's parts put out and what went in, the addition within the norm."""

    dense: torch.nn.Linear
    dropout: torch.nn.Dropout
    LayerNorm: torch.nn.LayerNorm

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        update, norm = self.dropout(self.dense(hidden_states)), self.LayerNorm
        return add_layer_norm(input_tensor, update, norm.weight, norm.bias, norm.eps)


_ADD_NORMS: dict[type[torch.nn.Module], type] = {
    kind: type(f"_{kind.__name__}", (_AddNorm, kind), {})
    for kind in (BertOutput, BertSelfOutput, ElectraOutput, ElectraSelfOutput, RobertaOutput, RobertaSelfOutput)
}


def _with_own_norms(backbone: PreTrainedModel) -> PreTrainedModel:
    for module in backbone.modules():
        if type(module) is LlamaRMSNorm:
            module.__class__ = _RMSNorm
        elif type(module) is torch.nn.LayerNorm and module.elementwise_affine:
            module.__class__ = _LayerNorm
        elif type(module) in _ADD_NORMS:
            module.__class__ = _ADD_NORMS[type(module)]
    return backbone


def read_backbone_config(folder: str | Path) -> PreTrainedConfig:
    """The config of a checkpoint folder. Raises UserError where it is missing or of an unknown architecture."""
    where = f"{folder}/config.json"
    values = _read_json(folder)
    if mamba_ssm_format.is_original(values):
        return mamba_ssm_format.to_transformers_config(values, where)
    if "model_type" not in values:
        raise UserError(f"{where}: has no model_type, nor the keys of a mamba_ssm checkpoint (d_model, n_layer)")
    if not isinstance(values["model_type"], str) or values["model_type"] not in FORWARDS:
        raise UserError(f"{where}: {_unknown(values['model_type'])}")
    with reading(f"{where}: transformers cannot read it; correct its values"):
        config = AutoConfig.from_pretrained(folder, **NO_CODE)
    _check_known(config, where)
    return config


def packed_forward(backbone: Any, packed: Packed) -> torch.Tensor:
    """Last hidden states [T, `output_width`] of a packed batch: equal to running each sequence alone."""
    return FORWARDS[backbone.config.model_type](backbone, packed)


def pooled_forward(backbone: Any, packed: Packed, pooling: Pooling) -> torch.Tensor:
    """One state for each sequence, [S, `output_width`]: its first or last token's, or the mean of all."""
    if pooling == "first" and backbone.config.model_type in _FIRST:
        return _FIRST[backbone.config.model_type](backbone, packed)
    hidden = packed_forward(backbone, packed)
    if pooling == "mean":
        sums = hidden.new_zeros(len(packed.lengths), hidden.shape[1], dtype=torch.float32)
        sums = sums.index_add(0, packed.sequence_ids, hidden.float())
        return sums / packed.cu_seqlens.diff()[:, None]
    return hidden.index_select(0, packed.first if pooling == "first" else packed.last)


def scored_forward(backbone: Any, packed: Packed, pooling: Pooling) -> torch.Tensor:
    """As `pooled_forward`, for inference: the last layer computes only the tokens that are pooled, where it can.

    With `packed.prefix_levels` (causal models, pooling the last token): one state for each leaf.
    """
    kind = backbone.config.model_type
    if pooling == "last" and kind in last_layer.LASTS:
        return last_layer.LASTS[kind](backbone, packed)
    if packed.prefix_levels is not None:
        raise ValueError(f"{kind} with pooling {pooling} cannot share the beginnings of sequences")
    if pooling != "mean" and kind in last_layer.TOKENS:
        return last_layer.TOKENS[kind](backbone, packed, packed.first if pooling == "first" else packed.last)
    return pooled_forward(backbone, packed, pooling)


def output_width(config: PreTrainedConfig) -> int:
    """Width of the last hidden states: OPT-350m's are projected to the width of its word embeddings."""
    return config.word_embed_proj_dim if config.model_type == "opt" else config.hidden_size


def longest_input(config: PreTrainedConfig) -> int | None:
    """Tokens that the position embeddings reach to; None for models without such (Llama, Mamba)."""
    if config.model_type not in _LEARNED_POSITIONS:
        return None
    return config.max_position_embeddings - _position_offset(config)


def _position_offset(config: PreTrainedConfig) -> int:
    return config.pad_token_id + 1 if config.model_type == "roberta" else 0


def _attention(config: PreTrainedConfig) -> dict[str, str]:
    return {} if config.model_type.startswith("mamba") else {"attn_implementation": attention.NAME}


def _read_json(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: holds no config.json; a checkpoint folder has config, weights and tokenizer")
    return read_json(path)


def _check_known(config: PreTrainedConfig, where: str) -> None:
    if config.model_type not in FORWARDS:
        raise UserError(f"{where}: {_unknown(config.model_type)}")
    if config.model_type == "mamba2" and tuple(config.time_step_limit) != (0.0, float("inf")):
        raise UserError(f"{where}: time_step_limit {config.time_step_limit} is not supported; only [0, Infinity] is")


def _unknown(model_type: object) -> str:
    return f"model_type {model_type!r} has no packed forward; known: {', '.join(FORWARDS)}"
