"""Mamba-3's recurrence by the kernels of Mamba-2's, in PyTorch: any device and floating dtype, autograd through.

A token's input reaches later tokens with the weight λ_t Δ_t + (1 - λ_{t+1}) Δ_{t+1}, and its own output with λ_t Δ_t
alone. So Mamba-2's mixer gets the first weight, and each token's row gets the C of the next token, which so reads the
state before itself; its own input is added afterwards. No output has a term of a later token, not even one that is
taken away again. States turn, but only angles between tokens matter: B and C are turned by the angle since their
sequence's start.

A sequence that continues another gets the token before it as its first one. Its step is zero, so it leaves the state as
it is, and its input enters with the weight that the next token's step gives it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmrank.kernels import dispatch
from ssmrank.kernels.packing import sequence_index
from ssmrank.kernels.ssd import WeighedInputs, packed_ssd
from ssmrank.kernels.trapezoid.inputs import Before, TrapezoidInputs, turned


def trapezoid(
    inputs: TrapezoidInputs,
    cu_seqlens: Tensor,
    before: Before | None = None,
    *,
    longest: int | None = None,
    return_final_states: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """See `packed_trapezoid`; `options` are those of `packed_ssd`.

    All tensors are float32 or float64; x and `before.x` may be in a narrower dtype, in which a GPU's products are.
    """
    starts, rows = cu_seqlens, None
    if before is not None:
        inputs, starts, rows = _with_token_before(inputs, cu_seqlens, before)
        longest = None if longest is None else longest + 1
    x, steps, log_decays, shares = inputs[:4]
    owners = sequence_index(starts, len(x))
    own = shares * steps
    later = _from_next(steps - own, owners)
    angles = _angles(steps, inputs.rates, starts, owners)
    cos, sin = _cosines(angles)
    B, C = inputs.heads()
    skip = inputs.D + own * (B * C).sum(-1)
    next_C = turned(C, cos, sin).roll(-1, 0)
    weighed = WeighedInputs(x, own + later, log_decays, turned(B, cos, sin), next_C)
    options |= {"longest": longest, "return_final_states": return_final_states}
    result: Any = packed_ssd(weighed, starts, **options)
    read, final = result if return_final_states else (result, None)
    read = torch.where(_goes_on(owners, 1)[:, None, None], read.roll(1, 0), 0.0)
    y = log_decays.exp()[..., None] * read.to(skip.dtype) + skip[..., None] * x.to(skip.dtype)
    if final is not None:
        final = _turned_back(final, angles, starts)
    return y if rows is None else y.index_select(0, rows), final


def _with_token_before(
    inputs: TrapezoidInputs, cu_seqlens: Tensor, before: Before
) -> tuple[TrapezoidInputs, Tensor, Tensor]:
    """The inputs with another first token in each sequence, where sequences then start, and the other tokens' rows."""
    tokens, sequences = len(inputs.x), len(cu_seqlens) - 1
    numbers = torch.arange(sequences + 1, device=cu_seqlens.device)
    starts = cu_seqlens + numbers
    rows = torch.arange(tokens, device=starts.device) + sequence_index(cu_seqlens, tokens) + 1
    order = rows.new_empty(tokens + sequences)
    order[rows] = torch.arange(tokens, device=starts.device)
    order[starts[:-1]] = tokens + numbers[:-1]

    def preceded(tensor: Tensor, first: Tensor | None = None) -> Tensor:
        if first is None:
            first = tensor.new_zeros(sequences, *tensor.shape[1:])
        return torch.cat([tensor, first]).index_select(0, order)

    of_tokens = {name: preceded(getattr(inputs, name)) for name in ("steps", "log_decays", "shares", "rates", "C")}
    return inputs._replace(x=preceded(inputs.x, before.x), B=preceded(inputs.B, before.B), **of_tokens), starts, rows


def _from_next(values: Tensor, owners: Tensor) -> Tensor:
    """Each token's value, `[T, H]`, at the token before it; zero at the last tokens of sequences."""
    return torch.where(_goes_on(owners, -1)[:, None], values.roll(-1, 0), 0.0)


def _goes_on(owners: Tensor, by: int) -> Tensor:
    """Which tokens have a token of their sequence before them (by: 1) or after them (-1), `[T]`."""
    goes_on = owners == owners.roll(by)
    goes_on[slice(1) if by > 0 else slice(-1, None)] = False
    return goes_on


def _angles(steps: Tensor, rates: Tensor, starts: Tensor, owners: Tensor) -> Tensor:
    """By how much states have turned since their sequence's start, radians, `[T, H, R]`, from -π to π.

    The sums run over all tokens in float64, so that little depends on the sequences before.
    """
    turns = steps.double()[:, :, None] * (rates.double() / math.tau)[:, None]
    if dispatch.is_batch_invariant():
        turns = torch.cat([own.cumsum(0) for own in turns.split(starts.diff().tolist())])
    else:
        turns = turns.cumsum(0)
        earlier = F.pad(turns, (0, 0, 0, 0, 1, 0)).index_select(0, starts[:-1])
        turns = turns - earlier.index_select(0, owners)
    return (turns - turns.detach().round()).to(steps.dtype) * math.tau


def _turned_back(states: Tensor, angles: Tensor, starts: Tensor) -> Tensor:
    """Final states `[S, H, P, N]`, turned back by the angle of their sequence's last token."""
    ends = starts[1:]
    full = F.pad(angles, (0, 0, 0, 0, 1, 0)).index_select(0, torch.where(ends > starts[:-1], ends, 0))
    cos, sin = (part[:, :, None] for part in _cosines(full))
    return turned(states, cos, -sin)


def _cosines(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `[T, H, R]`."""
    if angles.device.type == "cpu" and dispatch.is_batch_invariant() and len(angles):
        # torch computes the values at the end of a tensor by another function than whole vectors.
        cos, sin = zip(*((token.cos(), token.sin()) for token in angles), strict=True)
        return torch.stack(cos), torch.stack(sin)
    return angles.cos(), angles.sin()
