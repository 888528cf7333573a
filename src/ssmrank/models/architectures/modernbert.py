"""ModernBERT: Warner et al. 2024. Layers with local attention alternate with layers that attend to all tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.modernbert.modeling_modernbert import ModernBertPredictionHead, apply_rotary_pos_emb

from ssmrank.models.architecture import Architecture, attention_forward
from ssmrank.models.attention import last_attention
from ssmrank.models.packing import Packed


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `ModernBertModel`."""
    last = backbone.layers[-1]
    if last.attn.sliding_window is not None:  # not in the published models, whose last layer attends to all tokens
        return attention_forward(backbone, packed).index_select(0, wanted)
    hidden, rotations = backbone.embeddings(packed.input_ids)[None], {}
    for kind in set(backbone.config.layer_types):
        rotations[kind] = backbone.rotary_emb(hidden, packed.position_ids[None], kind)
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, position_embeddings=rotations[layer.attention_type], packed=packed)
    own, hidden = last.attn, hidden[0]
    q, k, v = own.Wqkv(last.attn_norm(hidden)).unflatten(1, (3, -1, own.head_dim)).unbind(1)
    cos, sin = (part[0] for part in rotations[last.attention_type])
    q, k = apply_rotary_pos_emb(q, k, cos, sin)
    attended = last_attention(q.index_select(0, wanted), k, v, packed, own.head_dim**-0.5)
    kept = hidden.index_select(0, wanted) + own.Wo(attended.flatten(1))
    return backbone.final_norm(kept + last.mlp(last.mlp_norm(kept)))


ARCHITECTURE = Architecture(
    model_type="modernbert",
    causal=False,
    scored_token=_token,
    masked_head=ModernBertPredictionHead,
)
