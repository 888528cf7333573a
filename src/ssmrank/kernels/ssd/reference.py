"""Mamba-2's mixer in plain PyTorch, step by step: slow, any floating dtype (float64 too), autograd through.

It states what the fast kernels compute, and they are tested against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmrank.kernels.packing import sequence_bounds
from ssmrank.kernels.ssd.inputs import SSDInputs, WeighedInputs


def ssd(
    inputs: SSDInputs | WeighedInputs,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Dao & Gu 2024, equation 1 with A a scalar per head; shapes as in `packed_ssd`; returns y and final states."""
    x, weights, log_decays, B, C = inputs.weighed()
    heads, D = x.shape[1], inputs.D
    decays = torch.exp(log_decays)[:, :, None, None].unbind()
    drives = (weights[:, :, None] * x)[..., None].unbind()
    Bs = B.repeat_interleave(heads // B.shape[1], dim=1)[:, :, None, :].unbind()
    Cs = C.repeat_interleave(heads // C.shape[1], dim=1)[..., None].unbind()
    rows, finals = [], []
    for index, (start, end) in enumerate(sequence_bounds(cu_seqlens)):
        state = x.new_zeros(*x.shape[1:], B.shape[-1]) if initial_states is None else initial_states[index]
        for t in range(start, end):
            state = decays[t] * state + drives[t] * Bs[t]
            rows.append((state @ Cs[t])[:, :, 0])
        finals.append(state)
    y = torch.stack(rows) if rows else torch.zeros_like(x)
    if D is not None:
        y = y + D[:, None] * x
    return y, torch.stack(finals)
