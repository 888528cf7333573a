"""Mamba-1's scan in plain PyTorch, step by step: slow, any floating dtype (float64 too), autograd through.

It states what the fast kernels compute, and they are tested against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmrank.kernels.packing import sequence_bounds
from ssmrank.kernels.selective_scan.inputs import ScanInputs


def selective_scan(
    inputs: ScanInputs,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gu & Dao 2023, algorithm 2, with shapes as in `packed_selective_scan`; returns y and the final states."""
    u, delta, A, B, C, D, z, delta_bias = inputs
    step = F.softplus(delta if delta_bias is None else delta + delta_bias)
    # Unbound once, because the gradient of indexing would fill a whole tensor at each step.
    steps, drives, Bs, Cs = step.unbind(), (step * u).unbind(), B.unbind(), C.unbind()
    rows, finals = [], []
    for index, (start, end) in enumerate(sequence_bounds(cu_seqlens)):
        state = u.new_zeros(A.shape) if initial_states is None else initial_states[index]
        for t in range(start, end):
            state = torch.exp(steps[t][:, None] * A) * state + drives[t][:, None] * Bs[t]
            rows.append(state @ Cs[t])
        finals.append(state)
    y = torch.stack(rows) if rows else torch.zeros_like(u)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * F.silu(z)
    return y, torch.stack(finals)
