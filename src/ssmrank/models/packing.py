"""Sequences laid end to end, so that no padding is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Packed:
    """S sequences of T tokens in all.

    input_ids: int64 [T]; position_ids: int64 [T], each token's place in its own sequence; sequence_ids: int32 [T];
    cu_seqlens: int64 [S + 1], where each sequence starts and, last, T; lengths: the same on the host.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    sequence_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    lengths: tuple[int, ...]

    @property
    def first(self) -> torch.Tensor:
        """Index of each sequence's first token, int64 [S]."""
        return self.cu_seqlens[:-1]

    @property
    def last(self) -> torch.Tensor:
        """Index of each sequence's last token, int64 [S]."""
        return self.cu_seqlens[1:] - 1

    @cached_property
    def length_groups(self) -> tuple[LengthGroup, ...]:
        """Sequences of about equal length, each group as the rows of a matrix of token indices."""
        return tuple(_length_groups(self.lengths, self.input_ids.device))

    @cached_property
    def from_length_groups(self) -> torch.Tensor:
        """For each token its place among the real tokens of the length groups laid end to end, int64 [T]."""
        tokens = torch.cat([group.tokens for group in self.length_groups])
        places = torch.empty_like(tokens)
        places[tokens] = torch.arange(len(tokens), device=tokens.device)
        return places


@dataclass(frozen=True, eq=False)
class LengthGroup:
    """Rows of token indices, int64 [sequences, longest]; places past a sequence's end repeat its last token.

    mask: bool [sequences, longest], true for real tokens, None where all are; tokens: int64, the real tokens' indices
    in the order of `places`, their flat places in the matrix.
    """

    indices: torch.Tensor
    mask: torch.Tensor | None
    tokens: torch.Tensor
    places: torch.Tensor


def pack(sequences: Sequence[Sequence[int] | np.ndarray], device: torch.device | str = "cpu") -> Packed:
    """Packs token id sequences (each at least one token) in the order given."""
    lengths = tuple(len(sequence) for sequence in sequences)
    if not lengths or min(lengths) == 0:
        raise ValueError("pack needs at least one sequence, and at least one token in each")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    repeats = np.repeat(np.arange(len(lengths)), lengths)

    def move(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(array, dtype=dtype).to(device, non_blocking=True)

    return Packed(
        input_ids=move(np.concatenate([np.asarray(sequence) for sequence in sequences]), torch.int64),
        position_ids=move(np.arange(starts[-1]) - starts[:-1][repeats], torch.int64),
        sequence_ids=move(repeats, torch.int32),
        cu_seqlens=move(starts, torch.int64),
        lengths=lengths,
    )


MAX_WASTE = 1.15
"""A length group's cells over its real tokens: more groups cost launches, fewer cost padding inside attention."""


def _length_groups(lengths: Sequence[int], device: torch.device) -> list[LengthGroup]:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    order = np.argsort(lengths, kind="stable")[::-1]
    groups, members, real = [], [], 0
    for sequence in order:
        longest = lengths[members[0]] if members else 0
        if members and (len(members) + 1) * longest > MAX_WASTE * (real + lengths[sequence]):
            groups.append(_length_group(members, lengths, starts, device))
            members, real = [], 0
        members.append(sequence)
        real += lengths[sequence]
    groups.append(_length_group(members, lengths, starts, device))
    return groups


def _length_group(
    members: Sequence[int], lengths: Sequence[int], starts: np.ndarray, device: torch.device
) -> LengthGroup:
    member_lengths = np.asarray([lengths[member] for member in members])
    columns = np.arange(member_lengths[0])[None, :]
    mask = columns < member_lengths[:, None]
    indices = starts[np.asarray(members)][:, None] + np.minimum(columns, member_lengths[:, None] - 1)
    return LengthGroup(
        indices=torch.from_numpy(indices).to(device),
        mask=None if mask.all() else torch.from_numpy(mask).to(device),
        tokens=torch.from_numpy(indices[mask]).to(device),
        places=torch.from_numpy(np.flatnonzero(mask)).to(device),
    )
