"""Llama: Touvron et al. 2023."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ssmrank.models.architecture import Architecture
from ssmrank.models.llama_family import attended_token, faster_norm
from ssmrank.models.packing import Packed


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `LlamaModel`."""
    positions = packed.position_ids[None]
    hidden = backbone.embed_tokens(packed.input_ids)[None]
    rotations = backbone.rotary_emb(hidden, position_ids=positions)
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, position_ids=positions, position_embeddings=rotations, packed=packed)
    layer, hidden = backbone.layers[-1], hidden[0]
    kept, normed = hidden.index_select(0, wanted), layer.input_layernorm(hidden)
    kept = kept + attended_token(layer.self_attn, normed, packed, wanted, rotations)
    kept = kept + layer.mlp(layer.post_attention_layernorm(kept))
    return backbone.norm(kept)


ARCHITECTURE = Architecture(
    model_type="llama",
    causal=True,
    scored_token=_token,
    replaced=faster_norm(LlamaRMSNorm),
)
