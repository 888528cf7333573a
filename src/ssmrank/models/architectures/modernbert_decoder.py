"""ModernBERT read from left to right: Weller et al. 2025. Ettin's decoders have this architecture."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.modernbert_decoder.modeling_modernbert_decoder import (
    ModernBertDecoderPredictionHead,
    apply_rotary_pos_emb,
)

from ssmrank.models.architecture import Architecture, attention_forward
from ssmrank.models.attention import hides, last_attention
from ssmrank.models.packing import Packed


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `ModernBertDecoderModel`."""
    last = backbone.layers[-1]
    own = last.attn
    if hides(packed, own.sliding_window):  # never so in Ettin: its last layers see all tokens
        return attention_forward(backbone, packed).index_select(0, wanted)
    kinds = backbone.config.layer_types
    hidden, rotations = backbone.embeddings(packed.input_ids)[None], {}
    for kind in set(kinds):
        rotations[kind] = backbone.rotary_emb(hidden, packed.position_ids[None], kind)
    for kind, layer in zip(kinds[:-1], backbone.layers[:-1], strict=True):
        hidden = layer(hidden, position_embeddings=rotations[kind], packed=packed)
    hidden = hidden[0]
    normed = last.attn_norm(hidden)
    q, k, v = (project(normed).unflatten(1, (-1, own.head_dim)) for project in (own.q_proj, own.k_proj, own.v_proj))
    cos, sin = (part[0] for part in rotations[kinds[-1]])
    q, k = apply_rotary_pos_emb(q, k, cos, sin)
    attended = last_attention(q.index_select(0, wanted), k, v, packed, own.scaling, own.layer_idx)
    kept = hidden.index_select(0, wanted) + own.Wo(attended.flatten(1))
    return backbone.final_norm(kept + last.mlp(last.mlp_norm(kept)))


ARCHITECTURE = Architecture(
    model_type="modernbert-decoder",
    causal=True,
    scored_token=_token,
    masked_head=ModernBertDecoderPredictionHead,
)
