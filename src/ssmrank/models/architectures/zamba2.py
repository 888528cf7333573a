"""Zamba2: Glorioso et al. 2024. Each layer has Mamba-2; before some, a block of attention and MLP reads the tokens too.

There are few such blocks, and several layers use each. Each use adds small matrices of its own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.zamba2.modeling_zamba2 import (
    Zamba2Attention,
    Zamba2HybridLayer,
    Zamba2MambaMixer,
    Zamba2RMSNorm,
)

from ssmrank.models.architecture import Architecture
from ssmrank.models.hybrid import begin_as_mamba2, fold_mixers, mix_floored, packed_mixer
from ssmrank.models.llama_family import faster_norm, heads_problem
from ssmrank.models.packing import Packed


class _Attention(Zamba2Attention):
    """transformers' attention, which says which layer uses it: each has keys and values of its own."""

    def forward(self, hidden_states: Tensor, layer_idx: int, **options: Any) -> Any:  # type: ignore[override]
        options["layer"] = layer_idx
        return super().forward(hidden_states, layer_idx, **options)


def _share(backbone: Any) -> None:
    blocks: dict[tuple[int, ...], Any] = {}
    for layer in backbone.layers:
        if isinstance(layer, Zamba2HybridLayer):
            own = layer.shared_transformer
            layer.shared_transformer = blocks.setdefault(tuple(map(id, own.parameters())), own)


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `Zamba2Model`."""
    hidden = embedded = backbone.embed_tokens(packed.input_ids)[None]
    options: dict[str, Any] = {"position_embeddings": None, "packed": packed}
    if backbone.config.use_mem_rope:
        options["position_embeddings"] = backbone.rotary_emb(hidden, position_ids=packed.position_ids[None])
    *others, layer = backbone.layers
    for number, other in enumerate(others):
        hidden = other(hidden, embedded, number, **options)
    read = hidden
    if isinstance(layer, Zamba2HybridLayer):
        read = hidden + layer.linear(layer.shared_transformer(hidden, embedded, len(others), **options))
        layer = layer.mamba_decoder
    update = layer.mamba.token(layer.input_layernorm(read)[0], packed, wanted)
    return backbone.final_layernorm(hidden[0].index_select(0, wanted) + update)


def _problem(config: PreTrainedConfig) -> str:
    width = int(config.mamba_expand * config.hidden_size)
    if width % config.n_mamba_heads:
        return f"n_mamba_heads {config.n_mamba_heads} does not divide the width of Mamba-2's mixers, {width}"
    if config.use_shared_attention_adapter and config.num_key_value_heads != config.num_attention_heads:
        return (
            f"use_shared_attention_adapter needs as many num_key_value_heads ({config.num_key_value_heads}) as "
            f"num_attention_heads ({config.num_attention_heads})"
        )
    return heads_problem(config)


ARCHITECTURE = Architecture(
    model_type="zamba2",
    causal=True,
    scored_token=_token,
    replaced={Zamba2MambaMixer: packed_mixer(Zamba2MambaMixer, mix_floored), Zamba2Attention: _Attention}
    | faster_norm(Zamba2RMSNorm),
    share=_share,
    prepare=fold_mixers,
    initialize=begin_as_mamba2,
    last_layer_float8=False,  # its parts are projected separately, some for the scored tokens alone
    problem=_problem,
)
