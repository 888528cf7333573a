"""Mamba-2's mixer in chunks of matrix products, in PyTorch: any device and floating dtype, autograd through.

Dao & Gu 2024, section 6: within a chunk the outputs are (C Bᵀ ∘ decays) X, and only a state passes between chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmrank.kernels.chunks import ChunkGroup, ChunkPlan, Decays, chunk_plan, pass_on
from ssmrank.kernels.ssd.inputs import SSDInputs, WeighedInputs


def ssd_chunked(
    inputs: SSDInputs | WeighedInputs,
    cu_seqlens: Tensor,
    initial_states: Tensor | None,
    *,
    chunk_size: int,
    need_final: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `packed_ssd`; one floating dtype, float32 or float64, whatever autocast says."""
    with torch.autocast(inputs.x.device.type, enabled=False):
        return _chunked(inputs, cu_seqlens, initial_states, chunk_size, need_final)


def _chunked(
    inputs: SSDInputs | WeighedInputs,
    cu_seqlens: Tensor,
    initial_states: Tensor | None,
    chunk_size: int,
    need_final: bool,
) -> tuple[Tensor, Tensor | None]:
    x, weights, log_decays, B, C = inputs.weighed()
    _tokens, heads, width = x.shape
    plan = chunk_plan(tuple(cu_seqlens.tolist()), chunk_size, x.device)
    per_group = heads // B.shape[1]
    handed_on = initial_states is not None or need_final or len(plan.sequences) > 1

    prepared = []
    for group in plan.groups:
        # A step of zero neither decays the state nor adds to it.
        real = group.real[..., None]
        added, left = (torch.where(real, steps[group.tokens], 0.0) for steps in (weights, log_decays))
        decays = Decays.of(left)
        xs = x[group.tokens] * added[..., None]
        prepared.append((group, decays, xs, B[group.tokens], C[group.tokens]))

    incoming: Tensor | None = None
    final = None
    if handed_on:
        incoming, final = _hand_on(plan, prepared, initial_states, (len(cu_seqlens) - 1, heads, width, B.shape[2]))
    rows = []
    for group, decays, xs, b, c in prepared:
        scores = c.transpose(1, 2) @ b.permute(0, 2, 3, 1)
        mixing = (decays.between().unflatten(1, (-1, per_group)) * scores[:, :, None]).flatten(1, 2)
        y = (mixing @ xs.transpose(1, 2)).transpose(1, 2)
        if incoming is not None:
            states = incoming[group.chunks].unflatten(1, (-1, per_group)).flatten(2, 3)
            carried = (states @ c.permute(0, 2, 3, 1)).unflatten(2, (per_group, width)).flatten(1, 2)
            y = y + carried.permute(0, 3, 1, 2) * decays.since_start().transpose(1, 2)[..., None]
        rows.append(y[group.real])
    y = torch.cat(rows)[plan.restore] if rows else x
    D = inputs.D
    return (y if D is None else y + D[:, None] * x), final if need_final else None


def _hand_on(
    plan: ChunkPlan,
    prepared: list[tuple[ChunkGroup, Decays, Tensor, Tensor, Tensor]],
    initial_states: Tensor | None,
    shape: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """The state at the start of each chunk, `[chunks, H, P, N]`, and at the end of each sequence, `[S, H, P, N]`."""
    numbers = torch.cat([item[0].chunks for item in prepared])
    added, kept = [], []
    for _, decays, xs, b, _ in prepared:
        per_group = xs.shape[2] // b.shape[2]
        driven = (xs * decays.until_end().transpose(1, 2)[..., None]).unflatten(2, (-1, per_group)).flatten(3, 4)
        states = driven.permute(0, 2, 3, 1) @ b.transpose(1, 2)
        added.append(states.unflatten(2, (per_group, -1)).flatten(1, 2))
        kept.append(decays.whole())
    order = torch.argsort(numbers)
    all_added, all_kept = torch.cat(added)[order], torch.cat(kept)[order]
    begins = all_added.new_zeros(shape) if initial_states is None else initial_states
    return pass_on(plan, begins, lambda chunks, before: all_kept[chunks, :, None, None] * before + all_added[chunks])
