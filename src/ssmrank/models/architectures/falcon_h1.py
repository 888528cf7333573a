"""Falcon-H1: Zuo et al. 2025. Each layer has Mamba-2 and attention side by side, then an MLP; constants scale them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1Mixer, FalconH1RMSNorm

from ssmrank.models.architecture import Architecture
from ssmrank.models.hybrid import PackedMixer, begin_as_mamba2, fold_mixers, mamba2_problem, packed_mixer
from ssmrank.models.llama_family import attended_token, faster_norm
from ssmrank.models.mamba import mamba2_mixer, mamba2_norm, project
from ssmrank.models.packing import Packed

_SCALED = "multipliers_are_folded"
"""Attribute of a mixer whose multipliers are part of its input projection."""


def _mix(mixer: Any, hidden: Tensor, packed: Packed, wanted: Tensor | None = None) -> Any:
    return mamba2_mixer(mixer, hidden, packed, wanted, _project, mamba2_norm if _norms_last(mixer) else _gate)


def _project(mixer: Any, hidden: Tensor, rows: slice) -> Tensor:
    if getattr(mixer, _SCALED, False):
        return project(mixer, hidden, rows)
    projected = project(mixer, hidden * mixer.ssm_in_multiplier, rows)
    return (projected * mixer.mup_vector[0, 0, rows]).to(projected.dtype)  # in bf16 the multipliers would be rounded


def _norms_last(mixer: Any) -> bool:
    """Whether the scan's output is gated and then normed, as in Mamba-2."""
    return mixer.mamba_rms_norm and not mixer.norm.norm_before_gate


def _gate(mixer: Any, y: Tensor, z: Tensor) -> Tensor:
    return mixer.norm(y, z) if mixer.mamba_rms_norm else y * F.silu(z)


def _prepare(backbone: Any) -> None:
    mixers = [module for module in backbone.modules() if isinstance(module, PackedMixer)]
    for mixer in mixers:
        linear: Any = mixer.in_proj  # type: ignore[attr-defined]
        if type(linear) is nn.Linear and not getattr(mixer, _SCALED, False):
            _fold(mixer, linear)
    if all(map(_norms_last, mixers)):
        fold_mixers(backbone)


def _fold(mixer: Any, linear: nn.Linear) -> None:
    with torch.no_grad():
        scales = mixer.mup_vector[0, 0]
        linear.weight.mul_(scales[:, None] * mixer.ssm_in_multiplier)
        if linear.bias is not None:
            linear.bias.mul_(scales)
    setattr(mixer, _SCALED, True)


def _token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """The last hidden states [R, hidden size] of the tokens `wanted`, int64 [R], in a `FalconH1Model`."""
    hidden = backbone.embed_tokens(packed.input_ids)[None] * backbone.embedding_multiplier
    rotations = backbone.rotary_emb(hidden, position_ids=packed.position_ids[None])
    for layer in backbone.layers[:-1]:
        hidden = layer(hidden, position_embeddings=rotations, packed=packed)[0]
    layer, hidden = backbone.layers[-1], hidden[0]
    own, normed = layer.self_attn, layer.input_layernorm(hidden)
    attended = attended_token(
        *(own, normed * layer.attention_in_multiplier, packed, wanted, rotations),
        keys=lambda k: k * own.key_multiplier,
    )
    update = layer.mamba.token(normed, packed, wanted) * layer.ssm_out_multiplier
    kept = hidden.index_select(0, wanted) + (update + attended * layer.attn_out_multiplier)
    kept = kept + layer.feed_forward(layer.pre_ff_layernorm(kept))
    return backbone.final_layernorm(kept)


ARCHITECTURE = Architecture(
    model_type="falcon_h1",
    causal=True,
    scored_token=_token,
    replaced={FalconH1Mixer: packed_mixer(FalconH1Mixer, _mix)} | faster_norm(FalconH1RMSNorm),
    prepare=_prepare,
    initialize=begin_as_mamba2,
    last_layer_float8=False,  # its parts are projected separately, some for the scored tokens alone
    problem=mamba2_problem,
)
