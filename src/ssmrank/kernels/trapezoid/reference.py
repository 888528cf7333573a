"""Mamba-3's recurrence in plain PyTorch, step by step: slow, any floating dtype (float64 too), autograd through.

It states what the fast form computes, which is tested against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmrank.kernels.packing import sequence_bounds
from ssmrank.kernels.trapezoid.inputs import Before, TrapezoidInputs, turned


def trapezoid(
    inputs: TrapezoidInputs,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
    before: Before | None = None,
) -> tuple[Tensor, Tensor]:
    """Lahoti et al. 2026, section 3; shapes as in `packed_trapezoid`; returns y and final states.

    Each step turns the state back, where the fast form turns B and C further and further. So B and C do not depend on
    where the sequence began. No sequence's numbers depend on the others.
    """
    x, steps, log_decays, shares, rates = inputs[:5]
    Bs, Cs = inputs.heads()
    decays, own, later = log_decays.exp(), shares * steps, (1 - shares) * steps
    rows, finals = [], []
    for index, (start, end) in enumerate(sequence_bounds(cu_seqlens)):
        state = x.new_zeros(*x.shape[1:], Bs.shape[2]) if initial_states is None else initial_states[index]
        last = torch.zeros_like(state) if before is None else _last(inputs, before, index)
        for t in range(start, end):
            angles = -steps[t][:, None, None] * rates[t]
            state = decays[t][:, None, None] * turned(
                state + later[t][:, None, None] * last, angles.cos(), angles.sin()
            )
            last = x[t][..., None] * Bs[t][:, None]
            state = state + own[t][:, None, None] * last
            rows.append((state * Cs[t][:, None]).sum(-1))
        finals.append(state)
    y = torch.stack(rows) if rows else torch.zeros_like(x)
    return y + inputs.D[:, None] * x, torch.stack(finals)


def _last(inputs: TrapezoidInputs, before: Before, index: int) -> Tensor:
    """What the token before a sequence added to the state, `[H, P, N]`, but for its weight."""
    times = inputs.x.shape[1] // inputs.B.shape[1]
    B = before.B[index].repeat_interleave(times, dim=0) + inputs.B_bias
    return before.x[index][..., None] * B[:, None]
