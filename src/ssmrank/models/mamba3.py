"""The packed forward pass of Mamba-3: Lahoti et al. 2026, over weights with the names of flash-linear-attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmrank.kernels.norms import rms_norm
from ssmrank.kernels.trapezoid import Before, TrapezoidInputs, packed_trapezoid
from ssmrank.models.mamba import ALL, last_inputs, project, residual_stream, scanned
from ssmrank.models.packing import Packed


def mamba3_forward(backbone: Any, packed: Packed) -> Tensor:
    """Last hidden states [T, hidden size] of a `Mamba3Model`, after its final norm."""
    return residual_stream(backbone, packed, mamba3_mixer)


def mamba3_token(backbone: Any, packed: Packed, wanted: Tensor) -> Tensor:
    """Rows `wanted`, int64 [R], of `mamba3_forward`. The last layer gates and projects only these."""
    return residual_stream(backbone, packed, mamba3_mixer, wanted)


def mamba3_mixer(mixer: Any, hidden: Any, packed: Packed, wanted: Tensor | None = None) -> Tensor:
    """Mamba-3's mixer, see `models.mamba.Mixer`."""
    width, heads = mixer.intermediate_size, mixer.num_heads
    if wanted is None:
        z, rest = project(mixer, hidden, ALL).tensor_split([width], dim=-1)
    else:
        z = project(mixer, hidden.index_select(0, wanted), slice(0, width))
        rest = project(mixer, hidden, slice(width, None))
    states = mixer.n_groups * mixer.ssm_state_size
    x, b, c, step, decay, share, angle = rest.split([width, states, states, *[heads] * 3, mixer.num_rope_angles], -1)
    steps = F.softplus(step.float() + mixer.dt_bias.float())
    b, c = (
        rms_norm(vectors.unflatten(1, (mixer.n_groups, -1)), norm.weight, norm.variance_epsilon)
        for vectors, norm in ((b, mixer.B_norm), (c, mixer.C_norm))
    )
    tensors = (
        x.unflatten(1, (heads, -1)),
        steps,
        steps * (-F.softplus(decay.float())).clamp(max=-mixer.A_floor),
        share.float().sigmoid(),
        math.pi * torch.tanh(angle.float()),
        b,
        c,
    )
    own = mixer.B_bias.squeeze(1), mixer.C_bias.squeeze(1), mixer.D

    def scan(*tensors: Tensor, before: Tensor | None = None, **options: Any) -> Any:
        inputs = TrapezoidInputs(*(*tensors, *own))
        if before is not None:
            last_x, last_b = before.tensor_split([width], dim=-1)
            options["before"] = Before(last_x.unflatten(1, (heads, -1)), last_b.unflatten(1, (mixer.n_groups, -1)))
        return packed_trapezoid(inputs, chunk_size=mixer.chunk_size, **options)

    before = last_inputs(mixer, lambda: torch.cat([x, b.flatten(1).to(x.dtype)], dim=1), packed)
    y = scanned(mixer, scan, tensors, packed, before).flatten(1)
    if wanted is not None:
        y = y.index_select(0, wanted)
    return mixer.out_proj(_gated(mixer, y, z))


def _gated(mixer: Any, y: Tensor, z: Tensor) -> Tensor:
    """y · silu(z); a mixer with a norm first norms each head of y."""
    if mixer.is_outproj_norm:
        y = rms_norm(y, mixer.norm.weight, mixer.norm.variance_epsilon, mixer.head_dim)
    return y * F.silu(z)
