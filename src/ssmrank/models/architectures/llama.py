"""Llama: Touvron et al. 2023."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from ssmrank.kernels.norms import rms_norm
from ssmrank.models.architecture import Architecture
from ssmrank.models.attention import last_attention
from ssmrank.models.packing import Packed


class _RMSNorm(LlamaRMSNorm):
    """Llama's norm in one kernel instead of seven."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `LlamaModel`."""
    positions = packed.position_ids[None]
    hidden = backbone.embed_tokens(packed.input_ids)[None]
    rotations = backbone.rotary_emb(hidden, position_ids=positions)
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, position_ids=positions, position_embeddings=rotations, packed=packed)
    layer, hidden = backbone.layers[-1], hidden[0]
    own, kept = layer.self_attn, hidden.index_select(0, wanted)
    normed = layer.input_layernorm(hidden)
    size = (-1, own.head_dim)
    q = own.q_proj(normed.index_select(0, wanted)).unflatten(1, size)
    k, v = own.k_proj(normed).unflatten(1, size), own.v_proj(normed).unflatten(1, size)
    cos, sin = (part[0] for part in rotations)
    k, _ = apply_rotary_pos_emb(k, k, cos, sin, unsqueeze_dim=1)
    cos, sin = (part.index_select(0, wanted) for part in (cos, sin))
    q, _ = apply_rotary_pos_emb(q, q, cos, sin, unsqueeze_dim=1)
    kept = kept + own.o_proj(last_attention(q, k, v, packed, own.scaling).flatten(1))
    kept = kept + layer.mlp(layer.post_attention_layernorm(kept))
    return backbone.norm(kept)


ARCHITECTURE = Architecture(
    model_type="llama",
    causal=True,
    scored_token=_token,
    replaced={LlamaRMSNorm: _RMSNorm},
)
