"""Forward passes whose last layer computes one token of each sequence: the one that is scored.

Keys and values of the last layer are needed of all tokens, everything behind its attention of one. For inference: the
layer's parts are called themselves, so what wraps a whole layer (sharding, recomputation) is passed by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ssmrank.models.attention import last_attention
from ssmrank.models.mamba import mamba1_last, mamba2_last
from ssmrank.models.packing import Packed


def encoder_token(backbone: Any, packed: Packed, wanted: Tensor, offset: int = 0) -> Tensor:
    """States [R, hidden size] of one token of each sequence, of BERT and those that are built like it."""
    hidden = backbone.embeddings(
        input_ids=packed.input_ids[None], position_ids=packed.position_ids[None] + offset, token_type_ids=None
    )
    if hasattr(backbone, "embeddings_project"):
        hidden = backbone.embeddings_project(hidden)
    for layer in backbone.encoder.layer[:-1]:
        hidden = layer(hidden, packed=packed)
    layer, hidden = backbone.encoder.layer[-1], hidden[0]
    own, kept = layer.attention.self, hidden.index_select(0, wanted)
    size = (-1, own.attention_head_size)
    q, k, v = (x.unflatten(1, size) for x in (own.query(kept), own.key(hidden), own.value(hidden)))
    attended = last_attention(q, k, v, packed, own.scaling).flatten(1)
    return layer.feed_forward_chunk(layer.attention.output(attended, kept))


def roberta_token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """As `encoder_token`; RoBERTa's positions begin behind the padding token's id."""
    return encoder_token(backbone, packed, wanted, backbone.config.pad_token_id + 1)


def opt_last(backbone: Any, packed: Packed) -> Tensor:
    """States [R, output width] of the tokens `packed.last` of an `OPTModel`."""
    decoder = backbone.decoder
    hidden = decoder.embed_tokens(packed.input_ids)
    if decoder.project_in is not None:
        hidden = decoder.project_in(hidden)
    table = decoder.embed_positions
    hidden = (hidden + F.embedding(packed.position_ids + table.offset, table.weight))[None]
    for layer in decoder.layers[:-1]:
        hidden = layer(hidden, attention_mask=None, packed=packed)
    layer, hidden = decoder.layers[-1], hidden[0]
    own, kept = layer.self_attn, hidden.index_select(0, packed.last)
    if layer.do_layer_norm_before:
        hidden = layer.self_attn_layer_norm(hidden)
        query = hidden.index_select(0, packed.last)
    else:
        query = kept
    size = (-1, own.head_dim)
    q, k, v = (x.unflatten(1, size) for x in (own.q_proj(query), own.k_proj(hidden), own.v_proj(hidden)))
    kept = kept + own.out_proj(last_attention(q, k, v, packed, own.scaling).flatten(1))
    if not layer.do_layer_norm_before:
        kept = layer.self_attn_layer_norm(kept)
    inner = layer.final_layer_norm(kept) if layer.do_layer_norm_before else kept
    kept = kept + layer.fc2(layer.activation_fn(layer.fc1(inner)))
    if not layer.do_layer_norm_before:
        kept = layer.final_layer_norm(kept)
    if decoder.final_layer_norm is not None:
        kept = decoder.final_layer_norm(kept)
    return kept if decoder.project_out is None else decoder.project_out(kept)


def llama_last(backbone: Any, packed: Packed) -> Tensor:
    """States [R, hidden size] of the tokens `packed.last` of a `LlamaModel`."""
    positions = packed.position_ids[None]
    hidden = backbone.embed_tokens(packed.input_ids)[None]
    rotations = backbone.rotary_emb(hidden, position_ids=positions)
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, position_ids=positions, position_embeddings=rotations, packed=packed)
    layer, hidden = backbone.layers[-1], hidden[0]
    own, kept = layer.self_attn, hidden.index_select(0, packed.last)
    normed = layer.input_layernorm(hidden)
    size = (-1, own.head_dim)
    q = own.q_proj(normed.index_select(0, packed.last)).unflatten(1, size)
    k, v = own.k_proj(normed).unflatten(1, size), own.v_proj(normed).unflatten(1, size)
    cos, sin = (part[0] for part in rotations)
    k, _ = apply_rotary_pos_emb(k, k, cos, sin, unsqueeze_dim=1)
    cos, sin = (part.index_select(0, packed.last) for part in (cos, sin))
    q, _ = apply_rotary_pos_emb(q, q, cos, sin, unsqueeze_dim=1)
    kept = kept + own.o_proj(last_attention(q, k, v, packed, own.scaling).flatten(1))
    kept = kept + layer.mlp(layer.post_attention_layernorm(kept))
    return backbone.norm(kept)


TOKENS: dict[str, Callable[[Any, Packed, Tensor], Tensor]] = {
    "bert": encoder_token,
    "roberta": roberta_token,
    "electra": encoder_token,
}
"""For model types that attend both ways: states of one token of each sequence, whichever it is."""

LASTS: dict[str, Callable[[Any, Packed], Tensor]] = {
    "opt": opt_last,
    "llama": llama_last,
    "mamba": mamba1_last,
    "mamba2": mamba2_last,
}
"""For causal model types: states of the tokens `packed.last`. These take batches with shared prefixes."""


def is_causal(model_type: str) -> bool:
    """Whether a token's state depends on nothing behind it, so that sequences can share beginnings."""
    return model_type in LASTS
