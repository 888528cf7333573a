"""Nemotron-H: Blakeman et al. 2025. Each layer has Mamba-2, attention or an MLP, and attention knows no positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer, NemotronHRMSNorm

from ssmrank.models.architecture import Architecture
from ssmrank.models.hybrid import begin_as_mamba2, fold_mixers, mamba2_problem, mix_floored, packed_mixer
from ssmrank.models.llama_family import attended_token, faster_norm
from ssmrank.models.packing import Packed


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `NemotronHModel`."""
    hidden = backbone.embeddings(packed.input_ids)[None]
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, packed=packed)
    layer, hidden = backbone.layers[-1], hidden[0]
    kept = hidden.index_select(0, wanted)
    if layer.block_type == "linear_attention":
        kept = kept + layer.mixer.token(layer.norm(hidden), packed, wanted)
    elif layer.block_type == "full_attention":
        kept = kept + attended_token(layer.mixer, layer.norm(hidden), packed, wanted, None)
    else:
        kept = kept + layer.mixer(layer.norm(kept))
    return backbone.norm_f(kept)


def _problem(config: PreTrainedConfig) -> str:
    if "moe" in config.layers_block_type:
        return "layers with experts are not supported; only Mamba-2, attention and MLPs are"
    return mamba2_problem(config)


ARCHITECTURE = Architecture(
    model_type="nemotron_h",
    causal=True,
    scored_token=_token,
    replaced={NemotronHMamba2Mixer: packed_mixer(NemotronHMamba2Mixer, mix_floored)} | faster_norm(NemotronHRMSNorm),
    prepare=fold_mixers,
    initialize=begin_as_mamba2,
    last_layer_float8=False,  # its parts are projected separately, some for the scored tokens alone
    problem=_problem,
)
