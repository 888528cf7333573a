"""The gated delta rule in plain PyTorch, step by step: slow, any floating dtype (float64 too), autograd through.

It states what the fast form computes, which is tested against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmrank.kernels.delta_rule.inputs import DeltaInputs
from ssmrank.kernels.packing import sequence_bounds


def delta_rule(inputs: DeltaInputs, cu_seqlens: Tensor, initial_states: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Yang, Kautz & Hatamizadeh 2024, equation 10; shapes as in `packed_delta_rule`; returns y and final states.

    No sequence's numbers depend on the others.
    """
    values, queries, keys, log_decays, rates = inputs.spread()
    rows, finals = [], []
    for index, (start, end) in enumerate(sequence_bounds(cu_seqlens)):
        shape = *keys.shape[1:], values.shape[2]
        state = values.new_zeros(shape) if initial_states is None else initial_states[index]
        for t in range(start, end):
            key = keys[t][..., None]
            state = log_decays[t].exp()[:, None, None] * state
            known = (state * key).sum(1)
            state = state + key * (rates[t][:, None] * (values[t] - known))[:, None]
            rows.append((state * queries[t][..., None]).sum(1))
        finals.append(state)
    return torch.stack(rows) if rows else torch.zeros_like(values), torch.stack(finals)
