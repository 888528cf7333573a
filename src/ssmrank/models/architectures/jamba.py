"""Jamba: Lieber et al. 2024. Each layer has Mamba-1 or attention, and an MLP; models with experts are not supported."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.jamba.modeling_jamba import JambaMambaDecoderLayer, JambaMambaMixer, JambaRMSNorm

from ssmrank.models.architecture import Architecture
from ssmrank.models.hybrid import packed_mixer
from ssmrank.models.llama_family import attended_token, faster_norm, heads_problem
from ssmrank.models.mamba import mamba1_mixer
from ssmrank.models.packing import Packed


class _MambaLayer(JambaMambaDecoderLayer):
    """transformers' layer, which does not hand on what its mixer has to know."""

    def forward(self, hidden_states: Tensor, packed: Packed, **_: Any) -> Tensor:  # type: ignore[override]
        hidden_states = hidden_states + self.mamba(self.input_layernorm(hidden_states), packed=packed)
        return hidden_states + self.feed_forward(self.pre_ff_layernorm(hidden_states))


def _mix(mixer: Any, hidden: Tensor, packed: Packed, wanted: Tensor | None = None) -> Tensor:
    return mamba1_mixer(mixer, hidden, packed, wanted, _normed)


def _normed(mixer: Any, step: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return mixer.dt_layernorm(step), mixer.b_layernorm(b), mixer.c_layernorm(c)


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `JambaModel`."""
    hidden = backbone.embed_tokens(packed.input_ids)[None]
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, packed=packed)
    layer, hidden = backbone.layers[-1], hidden[0]
    kept, normed = hidden.index_select(0, wanted), layer.input_layernorm(hidden)
    if backbone.config.layers_block_type[-1] == "mamba":
        kept = kept + layer.mamba.token(normed, packed, wanted)
    else:
        kept = kept + attended_token(layer.self_attn, normed, packed, wanted, None)
    kept = kept + layer.feed_forward(layer.pre_ff_layernorm(kept))
    return backbone.final_layernorm(kept)


def _problem(config: PreTrainedConfig) -> str:
    if max(config.layers_num_experts) > 1:
        return f"num_experts {config.num_experts}: experts are not supported; dense models have 1"
    if config.hidden_act != "silu":
        return f"Mamba's mixers with activation {config.hidden_act} are not supported; only silu is"
    return heads_problem(config)


ARCHITECTURE = Architecture(
    model_type="jamba",
    causal=True,
    scored_token=_token,
    replaced={JambaMambaMixer: packed_mixer(JambaMambaMixer, _mix), JambaMambaDecoderLayer: _MambaLayer}
    | faster_norm(JambaRMSNorm),
    # These project to and from step sizes. They are small, and an exponential would amplify their error.
    not_float8=frozenset({"x_proj", "dt_proj"}),
    last_layer_float8=False,  # its parts are projected separately, some for the scored tokens alone
    problem=_problem,
)
