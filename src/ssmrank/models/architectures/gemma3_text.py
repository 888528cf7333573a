"""Gemma 3: Gemma team 2025; its text models. Most layers attend within a window, and each sublayer has two norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from ssmrank.kernels.norms import rms_norm
from ssmrank.models.architecture import Architecture, attention_forward
from ssmrank.models.attention import hides
from ssmrank.models.llama_family import attended_token, heads_problem, normed_heads
from ssmrank.models.packing import Packed


class _RMSNorm(Gemma3RMSNorm):
    """Gemma's norm in one kernel; its weights are kept less one."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, 1.0 + self.weight, self.eps)


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `Gemma3TextModel`."""
    layer = backbone.layers[-1]
    own = layer.self_attn
    if hides(packed, own.sliding_window):
        return attention_forward(backbone, packed).index_select(0, wanted)
    positions = packed.position_ids[None]
    hidden, rotations = backbone.embed_tokens(packed.input_ids)[None], {}
    for kind in set(backbone.config.layer_types):
        rotations[kind] = backbone.rotary_emb(hidden, positions, kind)
    for other in backbone.layers[:-1]:
        hidden = other(hidden, position_embeddings=rotations[other.self_attn.layer_type], packed=packed)
    kept, normed = hidden[0].index_select(0, wanted), layer.input_layernorm(hidden[0])
    update = attended_token(own, normed, packed, wanted, rotations[own.layer_type], **normed_heads(own))
    kept = kept + layer.post_attention_layernorm(update)
    kept = kept + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(kept)))
    return backbone.norm(kept)


def _problem(config: PreTrainedConfig) -> str:
    for name in ("use_bidirectional_attention", "attn_logit_softcapping"):
        if getattr(config, name):
            return f"{name} is not supported"
    return heads_problem(config)


ARCHITECTURE = Architecture(
    model_type="gemma3_text",
    causal=True,
    scored_token=_token,
    replaced={Gemma3RMSNorm: _RMSNorm},
    problem=_problem,
)
