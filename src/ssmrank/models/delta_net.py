"""Gated DeltaNet's mixer inside a layer of transformers: Yang, Kautz & Hatamizadeh 2024."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmrank.kernels.delta_rule import DeltaInputs, packed_delta_rule
from ssmrank.models.mamba import convolve, scanned
from ssmrank.models.packing import Packed

EPSILON = 1e-6
"""What is added to the squared length of a query or a key."""


def delta_mixer(mixer: Any, hidden: Tensor, packed: Packed, wanted: Tensor | None = None) -> Tensor:
    """The mixer of Qwen3.5, see `models.mamba.Mixer`."""
    mixed = convolve(mixer, mixer.in_proj_qkv(hidden), packed)
    queries, keys, values = mixed.split([mixer.key_dim, mixer.key_dim, mixer.value_dim], dim=-1)
    heads = mixer.num_k_heads, mixer.head_k_dim
    log_decays = -mixer.A_log.float().exp() * F.softplus(mixer.in_proj_a(hidden).float() + mixer.dt_bias.float())
    tensors = (
        values.unflatten(1, (mixer.num_v_heads, mixer.head_v_dim)),
        _normed(queries.unflatten(1, heads)) * mixer.head_k_dim**-0.5,
        _normed(keys.unflatten(1, heads)),
        log_decays,
        mixer.in_proj_b(hidden).float().sigmoid(),
    )
    y, gated = scanned(mixer, _scan, tensors, packed), hidden
    if wanted is not None:
        y, gated = y.index_select(0, wanted), hidden.index_select(0, wanted)
    gate = mixer.in_proj_z(gated).unflatten(1, (-1, mixer.head_v_dim))
    return mixer.out_proj(mixer.norm(y, gate).flatten(1))


def _scan(*tensors: Tensor, longest: int = 0, **states: Any) -> Any:
    return packed_delta_rule(DeltaInputs(*tensors), **states)


def _normed(heads: Tensor) -> Tensor:
    """Vectors of length one, in float32."""
    wide = heads.to(torch.promote_types(heads.dtype, torch.float32))
    return wide * torch.rsqrt((wide * wide).sum(-1, keepdim=True) + EPSILON)
