"""Packed sequences cut into chunks that matrix products take together."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 16
"""Chunks are padded to a multiple of so many tokens."""


class ChunkGroup(NamedTuple):
    """Chunks of one padded length."""

    chunks: Tensor
    """`[c]`: their indices among all chunks."""
    tokens: Tensor
    """`[c, q]`: their tokens; padding repeats a token of the chunk."""
    real: Tensor
    """`[c, q]`: which tokens are not padding."""


class ChunkPlan(NamedTuple):
    """All chunks of a batch, and how their tokens are put back into its order."""

    groups: list[ChunkGroup]
    sequences: list[Tensor]
    """The sequences that have a first, second, … chunk; chunks are numbered in this order."""
    restore: Tensor
    """`[T]`: each token's index among the real tokens of all groups, one group after the other."""


@lru_cache(maxsize=64)
def chunk_plan(starts: tuple[int, ...], chunk_size: int, device: torch.device) -> ChunkPlan:
    """Cuts sequences, which start at `starts` and end at the last of them, into chunks of nearly equal length.

    Chunks have at most `chunk_size` tokens, rounded up to a multiple of `ROUNDING`, by which they are grouped.
    """
    bounds = list(itertools.pairwise(starts))
    # An empty sequence has a chunk of padding alone, so that its initial state becomes its final state.
    counts = [max(1, -(-(end - start) // chunk_size)) for start, end in bounds]
    sequences = []
    members: dict[int, list[tuple[int, int, int]]] = {}
    number = 0
    for position in range(max(counts, default=0)):
        present = [index for index, count in enumerate(counts) if count > position]
        sequences.append(torch.tensor(present, device=device))
        for index in present:
            start, end = bounds[index]
            first = start + (end - start) * position // counts[index]
            last = start + (end - start) * (position + 1) // counts[index]
            padded = max(1, -(-(last - first) // ROUNDING)) * ROUNDING
            members.setdefault(padded, []).append((number, first, last))
            number += 1
    groups = []
    for padded, chunks in sorted(members.items()):
        numbers, firsts, lasts = (torch.tensor(column) for column in zip(*chunks, strict=True))
        tokens = firsts[:, None] + torch.arange(padded)
        real = tokens < lasts[:, None]
        tokens = torch.minimum(tokens, (lasts[:, None] - 1).clamp(min=0))
        groups.append(ChunkGroup(numbers.to(device), tokens.to(device), real.to(device)))
    placed = torch.cat([group.tokens[group.real] for group in groups]) if groups else torch.zeros(0, dtype=torch.long)
    return ChunkPlan(groups, sequences, torch.argsort(placed))
