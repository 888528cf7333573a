"""Gated DeltaNet's mixers inside layers: Yang, Kautz & Hatamizadeh 2024."""

from __future__ import annotations

from types import SimpleNamespace
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
    inputs = delta_inputs(mixer, mixed, mixer.in_proj_a(hidden), mixer.in_proj_b(hidden).float().sigmoid())
    y, gated = scanned(mixer, _scan, inputs, packed), hidden
    if wanted is not None:
        y, gated = y.index_select(0, wanted), hidden.index_select(0, wanted)
    gate = mixer.in_proj_z(gated).unflatten(1, (-1, mixer.head_v_dim))
    return mixer.out_proj(mixer.norm(y, gate).flatten(1))


def separate_delta_mixer(mixer: Any, hidden: Tensor, packed: Packed, wanted: Tensor | None = None) -> Tensor:
    """The mixer of `models.gated_deltanet`, with projections and filters of their own for queries, keys and values."""
    projected = torch.cat([mixer.q_proj(hidden), mixer.k_proj(hidden), mixer.v_proj(hidden)], dim=-1)
    if mixer.convolves:
        filters = torch.cat([conv.weight for conv in (mixer.q_conv1d, mixer.k_conv1d, mixer.v_conv1d)])
        mixed = convolve(mixer, projected, packed, SimpleNamespace(weight=filters, bias=None))
    else:
        mixed = F.silu(projected)
    y = scanned(mixer, _scan, delta_inputs(mixer, mixed, *mixer.steps(hidden)), packed)
    if wanted is None:
        return mixer.out(y, hidden)
    return mixer.out(y.index_select(0, wanted), hidden.index_select(0, wanted))


def delta_inputs(mixer: Any, mixed: Tensor, steps: Tensor, rates: Tensor) -> DeltaInputs:
    """What the recurrence takes.

    mixed: queries, keys and values beside each other, [.., channels]; steps, on which decays depend, and rates:
    [.., heads of values].
    """
    queries, keys, values = mixed.split([mixer.key_dim, mixer.key_dim, mixer.value_dim], dim=-1)
    heads = mixer.num_k_heads, mixer.head_k_dim
    return DeltaInputs(
        values.unflatten(-1, (mixer.num_v_heads, mixer.head_v_dim)),
        _normed(queries.unflatten(-1, heads)) * mixer.head_k_dim**-0.5,
        _normed(keys.unflatten(-1, heads)),
        -mixer.A_log.float().exp() * F.softplus(steps.float() + mixer.dt_bias.float()),
        rates,
    )


def _scan(*tensors: Tensor, longest: int = 0, **states: Any) -> Any:
    return packed_delta_rule(DeltaInputs(*tensors), **states)


def _normed(heads: Tensor) -> Tensor:
    """Vectors of length one, in float32."""
    wide = heads.to(torch.promote_types(heads.dtype, torch.float32))
    return wide * torch.rsqrt((wide * wide).sum(-1, keepdim=True) + EPSILON)
