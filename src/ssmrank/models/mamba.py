"""Packed forward passes of Mamba-1 and Mamba-2 over the weights of transformers' own modules.

Mamba-1: Gu and Dao 2023, algorithm 2. Mamba-2: Dao and Gu 2024, section 7. The weights keep transformers' names, so
checkpoints of either library's layout load; only the computation is ours, without padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ssmrank.kernels.causal_conv import packed_causal_conv1d
from ssmrank.kernels.norms import add_rms_norm, gated_rms_norm
from ssmrank.kernels.selective_scan import packed_selective_scan
from ssmrank.kernels.ssd import packed_ssd
from ssmrank.models.packing import Packed


def mamba1_forward(backbone: Any, packed: Packed) -> torch.Tensor:
    """Last hidden states [T, hidden size] of a `MambaModel`, after its final norm."""
    return _residual_stream(backbone, packed, _mamba1_mixer)


def mamba2_forward(backbone: Any, packed: Packed) -> torch.Tensor:
    """Last hidden states [T, hidden size] of a `Mamba2Model`, after its final norm."""
    return _residual_stream(backbone, packed, _mamba2_mixer)


def _residual_stream(
    backbone: Any, packed: Packed, mixer: Callable[[Any, torch.Tensor, Packed], torch.Tensor]
) -> torch.Tensor:
    hidden = backbone.embeddings(packed.input_ids)
    if backbone.config.residual_in_fp32:
        hidden = hidden.float()

    def block(layer: Any, hidden: torch.Tensor, update: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        normed, hidden = add_rms_norm(hidden, update, layer.norm.weight, layer.norm.variance_epsilon)
        return hidden, mixer(layer.mixer, normed, packed)

    # A layer's output joins the stream in the next norm, which reads both anyway.
    update: torch.Tensor | None = None
    for layer in backbone.layers:
        if layer.gradient_checkpointing and layer.training:  # what transformers' layers do when they are called
            if update is not None:
                hidden, update = hidden + update, None  # a checkpoint then keeps one tensor, not two
            hidden, update = layer._gradient_checkpointing_func(block, layer, hidden, update)
        else:
            hidden, update = block(layer, hidden, update)
    norm = backbone.norm_f
    return add_rms_norm(hidden, update, norm.weight, norm.variance_epsilon, hidden.dtype)[0]


def _mamba1_mixer(mixer: Any, hidden: torch.Tensor, packed: Packed) -> torch.Tensor:
    x, gate = mixer.in_proj(hidden).chunk(2, dim=-1)
    x = packed_causal_conv1d(x, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, packed.cu_seqlens, activation="silu")
    rank, state = mixer.time_step_rank, mixer.ssm_state_size
    step, b, c = mixer.x_proj(x).split([rank, state, state], dim=-1)
    y = packed_selective_scan(
        x,
        F.linear(step, mixer.dt_proj.weight),
        -torch.exp(mixer.A_log.float()),
        b,
        c,
        D=mixer.D.float(),
        z=gate,
        delta_bias=mixer.dt_proj.bias.float(),
        cu_seqlens=packed.cu_seqlens,
    )
    return mixer.out_proj(y)


def _mamba2_mixer(mixer: Any, hidden: torch.Tensor, packed: Packed) -> torch.Tensor:
    tokens = hidden.shape[0]
    gate, xbc, step = mixer.in_proj(hidden).split([mixer.intermediate_size, mixer.conv_dim, mixer.num_heads], dim=-1)
    xbc = packed_causal_conv1d(
        xbc, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, packed.cu_seqlens, activation="silu"
    )
    states = mixer.n_groups * mixer.ssm_state_size
    x, b, c = xbc.split([mixer.intermediate_size, states, states], dim=-1)
    y = packed_ssd(
        x.view(tokens, mixer.num_heads, mixer.head_dim),
        step,
        -torch.exp(mixer.A_log.float()),
        b.view(tokens, mixer.n_groups, mixer.ssm_state_size),
        c.view(tokens, mixer.n_groups, mixer.ssm_state_size),
        D=mixer.D,
        dt_bias=mixer.dt_bias,
        cu_seqlens=packed.cu_seqlens,
        chunk_size=mixer.chunk_size,
    )
    group_size = mixer.intermediate_size // mixer.n_groups
    y = gated_rms_norm(y.reshape(tokens, -1), gate, mixer.norm.weight, mixer.norm.variance_epsilon, group_size)
    return mixer.out_proj(y)
