"""Bamba: IBM, Princeton, CMU and UIUC 2024. Each layer has Mamba-2 or attention, and an MLP."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.bamba.modeling_bamba import BambaMixer, BambaRMSNorm, apply_rotary_pos_emb

from ssmrank.models.architecture import Architecture
from ssmrank.models.hybrid import begin_as_mamba2, fold_mixers, mamba2_problem, packed_mixer
from ssmrank.models.llama_family import attended_token, faster_norm
from ssmrank.models.packing import Packed


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `BambaModel`."""
    hidden = backbone.embed_tokens(packed.input_ids)[None]
    rotations = backbone.rotary_emb(hidden, position_ids=packed.position_ids[None])
    for layer in backbone.layers[:-1]:
        hidden, _ = layer(hidden, position_embeddings=rotations, packed=packed)
    layer, hidden = backbone.layers[-1], hidden[0]
    kept, normed = hidden.index_select(0, wanted), layer.input_layernorm(hidden)
    if layer.block_type == "linear_attention":
        kept = kept + layer.mamba.token(normed, packed, wanted)
    else:
        kept = kept + attended_token(layer.self_attn, normed, packed, wanted, rotations, rotary=apply_rotary_pos_emb)
    kept = kept + layer.feed_forward(layer.pre_ff_layernorm(kept))
    return backbone.final_layernorm(kept)


ARCHITECTURE = Architecture(
    model_type="bamba",
    causal=True,
    scored_token=_token,
    replaced={BambaMixer: packed_mixer(BambaMixer)} | faster_norm(BambaRMSNorm),
    prepare=fold_mixers,
    initialize=begin_as_mamba2,
    last_layer_float8=False,  # its parts are projected separately, some for the scored tokens alone
    problem=mamba2_problem,
)
