"""Qwen3.5: Qwen team 2026; its text models. Most layers have Gated DeltaNet, and every fourth attention with a gate."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5GatedDeltaNet,
    Qwen3_5RMSNorm,
    apply_rotary_pos_emb,
)

from ssmrank.kernels.norms import rms_norm
from ssmrank.models.architecture import Architecture
from ssmrank.models.attention import last_attention
from ssmrank.models.delta_net import delta_mixer
from ssmrank.models.hybrid import begin_as_mamba2, packed_mixer
from ssmrank.models.llama_family import Rotations, heads_problem
from ssmrank.models.packing import Packed


class _RMSNorm(Qwen3_5RMSNorm):
    """The norm in one kernel; its weights are kept less one."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, 1.0 + self.weight, self.eps)


def _attended(own: Any, normed: Tensor, packed: Packed, wanted: Tensor, rotations: Rotations) -> Tensor:
    """What gated attention adds to the states of the tokens `wanted`, [R, hidden size]."""
    q, gate = own.q_proj(normed.index_select(0, wanted)).unflatten(1, (-1, 2 * own.head_dim)).chunk(2, dim=-1)
    k, v = (project(normed).unflatten(1, (-1, own.head_dim)) for project in (own.k_proj, own.v_proj))
    q, k = own.q_norm(q), own.k_norm(k)
    cos, sin = (part[0] for part in rotations)
    k, _ = apply_rotary_pos_emb(k, k, cos, sin, unsqueeze_dim=1)
    cos, sin = (part.index_select(0, wanted) for part in (cos, sin))
    q, _ = apply_rotary_pos_emb(q, q, cos, sin, unsqueeze_dim=1)
    attended = last_attention(q, k, v, packed, own.scaling, own.layer_idx)
    return own.o_proj((attended * gate.sigmoid()).flatten(1))


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `Qwen3_5TextModel`."""
    hidden = backbone.embed_tokens(packed.input_ids)[None]
    # Of text all three positions are the same: the place in time, in height and in width.
    rotations = backbone.rotary_emb(hidden, position_ids=packed.position_ids.expand(3, 1, -1))
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, position_embeddings=rotations, packed=packed)
    layer, hidden = backbone.layers[-1], hidden[0]
    kept, normed = hidden.index_select(0, wanted), layer.input_layernorm(hidden)
    if backbone.config.layer_types[-1] == "linear_attention":
        kept = kept + layer.linear_attn.token(normed, packed, wanted)
    else:
        kept = kept + _attended(layer.self_attn, normed, packed, wanted, rotations)
    kept = kept + layer.mlp(layer.post_attention_layernorm(kept))
    return backbone.norm(kept)


def _problem(config: PreTrainedConfig) -> str:
    if config.hidden_act != "silu":
        return f"Gated DeltaNet with activation {config.hidden_act} is not supported; only silu is"
    if config.linear_num_value_heads % config.linear_num_key_heads:
        return (
            f"linear_num_key_heads {config.linear_num_key_heads} does not divide linear_num_value_heads "
            f"{config.linear_num_value_heads}"
        )
    return heads_problem(config)


ARCHITECTURE = Architecture(
    model_type="qwen3_5_text",
    causal=True,
    scored_token=_token,
    replaced={
        Qwen3_5GatedDeltaNet: packed_mixer(Qwen3_5GatedDeltaNet, delta_mixer),
        Qwen3_5RMSNorm: _RMSNorm,
    },
    captured=False,  # the delta rule cuts sequences into chunks on the host
    initialize=begin_as_mamba2,
    # A number for each head: too few for 8 bits, and an exponential would amplify their error.
    not_float8=frozenset({"in_proj_a", "in_proj_b"}),
    problem=_problem,
)
