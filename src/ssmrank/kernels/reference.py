"""The sequence mixers in plain PyTorch, step by step: slow, any floating dtype (float64 too), autograd through.

They state what the fast kernels compute and are what these are tested against.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor


def sequence_bounds(cu_seqlens: Tensor) -> list[tuple[int, int]]:
    """First token and end of each sequence."""
    bounds = cu_seqlens.tolist()
    return list(itertools.pairwise(bounds))


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor, activation: str | None = None
) -> Tensor:
    """y[t, c] = bias[c] + sum over w of weight[c, w] · x[t - (W - 1) + w, c], within a sequence; `[T, C]`."""
    width = weight.shape[1]
    pieces = []
    for start, end in sequence_bounds(cu_seqlens):
        padded = F.pad(x[start:end], (0, 0, width - 1, 0))
        pieces.append(torch.stack([padded[w : w + end - start] * weight[:, w] for w in range(width)]).sum(0))
    y = torch.cat(pieces) if pieces else x
    if bias is not None:
        y = y + bias
    return F.silu(y) if activation == "silu" else y


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gu & Dao 2023, algorithm 2, with shapes as in `packed_selective_scan`; returns y and the final states."""
    step = F.softplus(delta if delta_bias is None else delta + delta_bias)
    # Taken apart once: the gradient of indexing at each step would fill a whole tensor at each step.
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


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    cu_seqlens: Tensor,
    initial_states: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Dao & Gu 2024, equation 1 with A a scalar per head; shapes as in `packed_ssd`; returns y and final states."""
    heads = x.shape[1]
    step = F.softplus(dt if dt_bias is None else dt + dt_bias)
    decays = torch.exp(step * A)[:, :, None, None].unbind()
    drives = (step[:, :, None] * x)[..., None].unbind()
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
