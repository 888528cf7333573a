"""What decoders with Llama's modules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ssmrank.kernels.norms import rms_norm
from ssmrank.models.attention import last_attention
from ssmrank.models.packing import Packed

Rotations = tuple[Tensor, Tensor]
"""Cosines and sines of the tokens' rotations, [1, T, rotated part of a head]."""


class _RMSNorm:
    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def faster_norm(kind: type[nn.Module]) -> dict[type[nn.Module], type[nn.Module]]:
    """For `Architecture.replaced`: one of transformers' copies of Llama's norm in one kernel instead of seven."""
    return {kind: type(f"_{kind.__name__}", (_RMSNorm, kind), {})}


def unchanged(x: Tensor) -> Tensor:
    """Most attentions take queries and keys as they are projected."""
    return x


def attended_token(
    own: Any,
    normed: Tensor,
    packed: Packed,
    wanted: Tensor,
    rotations: Rotations | None,
    *,
    rotary: Callable[..., tuple[Tensor, Tensor]] = apply_rotary_pos_emb,
    queries: Callable[[Tensor], Tensor] = unchanged,
    keys: Callable[[Tensor], Tensor] = unchanged,
) -> Tensor:
    """What an attention module adds to the states of the tokens `wanted`, [R, hidden size].

    own: the module, with Llama's names; normed: its input, [T, hidden size]; rotations: None without any; rotary:
    transformers' function that applies them; queries, keys: what is done to projected heads [.., heads, head size].
    """
    size = (-1, own.head_dim)
    q = queries(own.q_proj(normed.index_select(0, wanted)).unflatten(1, size))
    k, v = keys(own.k_proj(normed).unflatten(1, size)), own.v_proj(normed).unflatten(1, size)
    if rotations is not None:
        cos, sin = (part[0] for part in rotations)
        k, _ = rotary(k, k, cos, sin, unsqueeze_dim=1)
        cos, sin = (part.index_select(0, wanted) for part in (cos, sin))
        q, _ = rotary(q, q, cos, sin, unsqueeze_dim=1)
    return own.o_proj(last_attention(q, k, v, packed, own.scaling, own.layer_idx).flatten(1))


def llama_token(
    backbone: Any, packed: Packed, wanted: Tensor, heads: Callable[[Any], dict[str, Any]] | None = None
) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a model with Llama's modules.

    heads: from an attention module to `queries` and `keys` of `attended_token`.
    """
    positions = packed.position_ids[None]
    hidden = backbone.embed_tokens(packed.input_ids)[None]
    rotations = backbone.rotary_emb(hidden, position_ids=positions)
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, position_ids=positions, position_embeddings=rotations, packed=packed)
    layer, hidden = backbone.layers[-1], hidden[0]
    own, kept, normed = layer.self_attn, hidden.index_select(0, wanted), layer.input_layernorm(hidden)
    kept = kept + attended_token(own, normed, packed, wanted, rotations, **(heads(own) if heads else {}))
    kept = kept + layer.mlp(layer.post_attention_layernorm(kept))
    return backbone.norm(kept)


def heads_problem(config: PreTrainedConfig) -> str:
    """What is wrong with the numbers of heads in a config, in words; transformers does not look."""
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    return f"num_key_value_heads {shared} does not divide num_attention_heads {heads}" if heads % shared else ""


def normed_heads(own: Any) -> dict[str, Any]:
    """For `llama_token`: queries and keys of an attention that norms them."""
    return {"queries": own.q_norm, "keys": own.k_norm}
