"""Granite 4: IBM 2025. Each layer has Mamba-2 or attention, and an MLP; models with experts are not supported."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.granitemoehybrid.modeling_granitemoehybrid import (
    GraniteMoeHybridMambaLayer,
    GraniteMoeHybridRMSNorm,
)

from ssmrank.models.architecture import Architecture
from ssmrank.models.hybrid import begin_as_mamba2, fold_mixers, mamba2_problem, packed_mixer
from ssmrank.models.llama_family import attended_token, faster_norm
from ssmrank.models.packing import Packed


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `GraniteMoeHybridModel`."""
    hidden = backbone.embed_tokens(packed.input_ids)[None] * backbone.embedding_multiplier
    rotations = None
    if backbone.rotary_emb is not None:
        rotations = backbone.rotary_emb(hidden, packed.position_ids[None])
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, position_embeddings=rotations, packed=packed)
    layer, hidden = backbone.layers[-1], hidden[0]
    kept, normed = hidden.index_select(0, wanted), layer.input_layernorm(hidden)
    if layer.mamba is not None:
        update = layer.mamba.token(normed, packed, wanted)
    else:
        update = attended_token(layer.self_attn, normed, packed, wanted, rotations)
    kept = kept + update * layer.residual_multiplier
    kept = kept + layer.shared_mlp(layer.post_attention_layernorm(kept)) * layer.residual_multiplier
    return backbone.norm(kept)


def _problem(config: PreTrainedConfig) -> str:
    if config.num_local_experts:
        return f"num_local_experts {config.num_local_experts}: experts are not supported; dense models have 0"
    return mamba2_problem(config)


ARCHITECTURE = Architecture(
    model_type="granitemoehybrid",
    causal=True,
    scored_token=_token,
    replaced={GraniteMoeHybridMambaLayer: packed_mixer(GraniteMoeHybridMambaLayer)}
    | faster_norm(GraniteMoeHybridRMSNorm),
    prepare=fold_mixers,
    initialize=begin_as_mamba2,
    last_layer_float8=False,  # its parts are projected separately, some for the scored tokens alone
    problem=_problem,
)
