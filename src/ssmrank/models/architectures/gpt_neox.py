"""GPT-NeoX: Black et al. 2022. Pythia (Biderman et al. 2023) has this architecture."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

from ssmrank.models.architecture import Architecture
from ssmrank.models.attention import last_attention
from ssmrank.models.packing import Packed


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `GPTNeoXModel`."""
    positions = packed.position_ids[None]
    hidden = backbone.embed_in(packed.input_ids)[None]
    rotations = backbone.rotary_emb(hidden, position_ids=positions)
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, position_ids=positions, position_embeddings=rotations, packed=packed)
    layer, hidden = backbone.layers[-1], hidden[0]
    own, kept = layer.attention, hidden.index_select(0, wanted)
    joined = own.query_key_value(layer.input_layernorm(hidden)).unflatten(1, (-1, 3 * own.head_size))
    q, k, v = joined.chunk(3, dim=-1)
    cos, sin = (part[0] for part in rotations)
    q, k = apply_rotary_pos_emb(q, k, cos, sin)
    attended = own.dense(last_attention(q.index_select(0, wanted), k, v, packed, own.scaling, own.layer_idx).flatten(1))
    residual = kept if layer.use_parallel_residual else kept + attended
    update = layer.mlp(layer.post_attention_layernorm(residual))
    return backbone.final_layer_norm(kept + attended + update)


ARCHITECTURE = Architecture(model_type="gpt_neox", causal=True, scored_token=_token)
