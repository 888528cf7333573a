"""Gated DeltaNet in flash-linear-attention's format: Yang, Kautz & Hatamizadeh 2024. Some layers may attend."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ssmrank.kernels.norms import rms_norm
from ssmrank.models.architecture import Architecture, attention_forward, is_positive
from ssmrank.models.attention import hides
from ssmrank.models.delta_net import separate_delta_mixer
from ssmrank.models.gated_deltanet import (
    ACTIVATIONS,
    GatedDeltaNet,
    GatedDeltaNetAttention,
    GatedDeltaNetConfig,
    GatedDeltaNetModel,
    attention_layers,
    value_heads,
)
from ssmrank.models.hybrid import packed_mixer
from ssmrank.models.llama_family import attended_token
from ssmrank.models.packing import Packed

_MOST_TAPS = 4
"""The tokens before a segment that a batch with shared prefixes knows, and the segment's own."""


class _RMSNorm(nn.RMSNorm):
    """The norm in one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.eps is not None
        return rms_norm(x, self.weight, self.eps)


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `GatedDeltaNetModel`."""
    layer = backbone.layers[-1]
    attends = isinstance(layer.attn, GatedDeltaNetAttention)
    if attends and hides(packed, layer.attn.sliding_window):
        return attention_forward(backbone, packed).index_select(0, wanted)
    positions, hidden = packed.position_ids[None], backbone.embeddings(packed.input_ids)[None]
    for other in backbone.layers[:-1]:
        hidden = other(hidden, position_ids=positions, packed=packed)
    hidden = hidden[0]
    kept, normed = hidden.index_select(0, wanted), layer.attn_norm(hidden)
    if attends:
        rotations = layer.attn.rotations(positions, normed.dtype)
        kept = kept + attended_token(layer.attn, normed, packed, wanted, rotations)
    else:
        kept = kept + layer.attn.token(normed, packed, wanted)
    return backbone.norm(kept + layer.mlp(layer.mlp_norm(kept)))


def _problem(config: PreTrainedConfig) -> str:
    if config.attnres_block_size is not None:
        return "attnres_block_size (residuals that attend) is not supported; only null is"
    if config.hidden_act not in ("swish", "silu"):
        return f"hidden_act {config.hidden_act} is not supported; only swish is"
    if config.use_gate and config.output_gate_activation not in ACTIVATIONS:
        return f"output_gate_activation {config.output_gate_activation} is unknown; known: {', '.join(ACTIVATIONS)}"
    if config.use_short_conv and not 1 <= config.conv_size <= _MOST_TAPS:
        return f"conv_size {config.conv_size} is not supported; only 1 to {_MOST_TAPS} are"
    for name in ("num_heads", "head_dim", "num_hidden_layers"):
        if not is_positive(getattr(config, name)):
            return f"{name} is {getattr(config, name)!r}, but must be a positive integer"
    if not is_positive(value_heads(config)) or value_heads(config) % config.num_heads:
        return f"num_heads {config.num_heads} does not divide num_v_heads {config.num_v_heads}"
    if abs(config.head_dim * config.expand_v - round(config.head_dim * config.expand_v)) > 1e-3:
        return f"head_dim {config.head_dim} times expand_v {config.expand_v} is no whole number"
    return _attention_problem(config)


def _attention_problem(config: PreTrainedConfig) -> str:
    try:
        layers = attention_layers(config)
    except (TypeError, ValueError) as error:
        return str(error)
    for attends in layers.values():
        if config.hidden_size % attends.heads or attends.heads % attends.key_heads:
            return (
                f"attn: num_heads {attends.heads} must divide hidden_size {config.hidden_size}, and num_kv_heads "
                f"{attends.key_heads} must divide num_heads"
            )
    return ""


ARCHITECTURE = Architecture(
    model_type="gated_deltanet",
    causal=True,
    scored_token=_token,
    replaced={GatedDeltaNet: packed_mixer(GatedDeltaNet, separate_delta_mixer), nn.RMSNorm: _RMSNorm},
    captured=False,  # the delta rule cuts sequences into chunks on the host
    # A number for each head: too few for 8 bits, and an exponential would amplify their error.
    not_float8=frozenset({"a_proj", "b_proj"}),
    classes=(GatedDeltaNetConfig, GatedDeltaNetModel),
    problem=_problem,
)
