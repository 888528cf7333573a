"""OPT: Zhang et al. 2022. OPT-350m has word embeddings and last hidden states that are narrower than its layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig

from ssmrank.models.architecture import Architecture
from ssmrank.models.attention import last_attention
from ssmrank.models.packing import Packed


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, output width] of the tokens `wanted`, int64 [R], in an `OPTModel`."""
    decoder = backbone.decoder
    hidden = decoder.embed_tokens(packed.input_ids)
    if decoder.project_in is not None:
        hidden = decoder.project_in(hidden)
    table = decoder.embed_positions
    hidden = (hidden + F.embedding(packed.position_ids + table.offset, table.weight))[None]
    for layer in decoder.layers[:-1]:
        hidden = layer(hidden, attention_mask=None, packed=packed)
    layer, hidden = decoder.layers[-1], hidden[0]
    own, kept = layer.self_attn, hidden.index_select(0, wanted)
    if layer.do_layer_norm_before:
        hidden = layer.self_attn_layer_norm(hidden)
        query = hidden.index_select(0, wanted)
    else:
        query = kept
    size = (-1, own.head_dim)
    q, k, v = (x.unflatten(1, size) for x in (own.q_proj(query), own.k_proj(hidden), own.v_proj(hidden)))
    kept = kept + own.out_proj(last_attention(q, k, v, packed, own.scaling, own.layer_idx).flatten(1))
    if not layer.do_layer_norm_before:
        kept = layer.self_attn_layer_norm(kept)
    inner = layer.final_layer_norm(kept) if layer.do_layer_norm_before else kept
    kept = kept + layer.fc2(layer.activation_fn(layer.fc1(inner)))
    if not layer.do_layer_norm_before:
        kept = layer.final_layer_norm(kept)
    if decoder.final_layer_norm is not None:
        kept = decoder.final_layer_norm(kept)
    return kept if decoder.project_out is None else decoder.project_out(kept)


def _width(config: PreTrainedConfig) -> int:
    return config.word_embed_proj_dim


ARCHITECTURE = Architecture(
    model_type="opt",
    causal=True,
    scored_token=_token,
    learned_positions=True,
    output_width=_width,
)
