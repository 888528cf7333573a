"""The gated delta rule in chunks of matrix products, in PyTorch: any device and floating dtype, autograd through.

Yang, Kautz & Hatamizadeh 2024, section 3.3. Each value is corrected by what the state holds for its key. The chunk's
earlier tokens have changed that state, so a chunk's corrections are the solution of a triangular system. What a chunk
makes of a state is linear, so its matrix is computed for all chunks at once, and only states pass from chunk to chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssmrank.kernels.chunks import ChunkGroup, ChunkPlan, Decays, chunk_plan, pass_on
from ssmrank.kernels.delta_rule.inputs import DeltaInputs


class _Chunks(NamedTuple):
    """Chunks of one padded length q, and what they compute without knowing the state before them."""

    group: ChunkGroup
    queries: Tensor
    """`[c, H, q, N]`, times the decay since the chunk's start: what they read from the state before it."""
    mixing: Tensor
    """`[c, H, q, q]`: what queries read from corrected values."""
    corrected: Tensor
    """`[c, H, q, P]`: the values, corrected by the chunk's own tokens."""
    correction: Tensor
    """`[c, H, q, N]`: times the state before the chunk, what is taken from these values too."""
    keys: Tensor
    """`[c, H, q, N]`, times the decay until the chunk's end."""
    kept: Tensor
    """`[c, H]`: what the chunk leaves of a state."""


def delta_rule_chunked(
    inputs: DeltaInputs, cu_seqlens: Tensor, initial_states: Tensor | None, *, chunk_size: int, need_final: bool
) -> tuple[Tensor, Tensor | None]:
    """See `packed_delta_rule`; one floating dtype, float32 or float64, whatever autocast says."""
    with torch.autocast(inputs.values.device.type, enabled=False):
        return _chunked(inputs.spread(), cu_seqlens, initial_states, chunk_size, need_final)


def _chunked(
    inputs: DeltaInputs, cu_seqlens: Tensor, initial_states: Tensor | None, chunk_size: int, need_final: bool
) -> tuple[Tensor, Tensor | None]:
    values = inputs.values
    plan = chunk_plan(tuple(cu_seqlens.tolist()), chunk_size, values.device)
    parts = [_prepared(group, inputs) for group in plan.groups]
    incoming = final = None
    if initial_states is not None or need_final or len(plan.sequences) > 1:
        shape = len(cu_seqlens) - 1, values.shape[1], inputs.keys.shape[2], values.shape[2]
        incoming, final = _hand_on(plan, parts, initial_states, shape)
    rows = []
    for part in parts:
        corrected = part.corrected
        if incoming is not None:
            states = incoming[part.group.chunks]
            corrected = corrected - part.correction @ states
        y = part.mixing @ corrected
        if incoming is not None:
            y = y + part.queries @ states
        rows.append(y.transpose(1, 2)[part.group.real])
    y = torch.cat(rows)[plan.restore] if rows else values
    return y, final if need_final else None


def _prepared(group: ChunkGroup, inputs: DeltaInputs) -> _Chunks:
    real = group.real[..., None]
    values, queries, keys = (tensor[group.tokens].transpose(1, 2) for tensor in inputs[:3])
    # A step that decays nothing and writes nothing leaves the state as it is.
    log_decays, rates = (torch.where(real, tensor[group.tokens], 0.0) for tensor in inputs[3:])
    decays = Decays.of(log_decays)
    between, since_start, until_end = decays.between(), decays.since_start()[..., None], decays.until_end()[..., None]

    weighed = keys * rates.transpose(1, 2)[..., None]
    system = (weighed @ keys.mT) * between  # the solver takes ones for its diagonal
    right = torch.cat([values * rates.transpose(1, 2)[..., None], weighed * since_start], dim=-1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    corrected, correction = solved.split([values.shape[-1], keys.shape[-1]], dim=-1)
    mixing = (queries @ keys.mT) * between
    return _Chunks(group, queries * since_start, mixing, corrected, correction, keys * until_end, decays.whole())


def _hand_on(
    plan: ChunkPlan, parts: list[_Chunks], initial_states: Tensor | None, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The state at the start of each chunk, `[chunks, H, N, P]`, and at the end of each sequence, `[S, H, N, P]`."""
    order = torch.argsort(torch.cat([part.group.chunks for part in parts]))
    added = torch.cat([part.keys.mT @ part.corrected for part in parts])[order]
    taken = torch.cat([part.keys.mT @ part.correction for part in parts])[order]
    kept = torch.cat([part.kept for part in parts])[order][..., None, None]
    begins = added.new_zeros(shape) if initial_states is None else initial_states
    return pass_on(plan, begins, lambda chunks, before: kept[chunks] * before - taken[chunks] @ before + added[chunks])
