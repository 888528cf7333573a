"""Packed sequences cut into chunks that matrix products take together."""

from __future__ import annotations

import itertools
from collections.abc import Callable
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
@torch.inference_mode(False)  # a plan made while evaluating serves the next training step too
def chunk_plan(starts: tuple[int, ...], chunk_size: int, device: torch.device) -> ChunkPlan:
    """Cuts sequences, which start at `starts` and end at the last of them, into chunks of nearly equal length.

    A chunk has at most `chunk_size` tokens. It is padded to a multiple of `ROUNDING`, and chunks of one padded length
    are a group.
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


class Decays(NamedTuple):
    """What is left of a state between the tokens of chunks: products of decays, as sums of their logarithms.

    After a strong decay a sum is large and the differences that matter are small, so it is held as two numbers, each
    `[c, H, q]`.
    """

    coarse: Tensor
    fine: Tensor

    @classmethod
    def of(cls, logarithms: Tensor) -> Decays:
        """From the logarithm of each token's decay, `[c, q, H]`, 0 for padding."""
        exact = logarithms.double().cumsum(1).transpose(1, 2)
        coarse = exact.to(logarithms.dtype)
        return cls(coarse, (exact.detach() - coarse.detach().double()).to(logarithms.dtype))

    def between(self) -> Tensor:
        """From each token to each later one, `[c, H, q, q]`, the later one first; 0 where none is later."""
        coarse, fine = self
        exponent = (coarse[..., :, None] - coarse[..., None, :]) + (fine[..., :, None] - fine[..., None, :])
        length = coarse.shape[-1]
        future = torch.ones(length, length, dtype=torch.bool, device=coarse.device).triu(1)
        return torch.exp(exponent.masked_fill(future, float("-inf")))

    def since_start(self) -> Tensor:
        """From the start of the chunk to each token, `[c, H, q]`."""
        return torch.exp(self.coarse)

    def until_end(self) -> Tensor:
        """From each token to the end of the chunk, `[c, H, q]`."""
        coarse, fine = self
        return torch.exp((coarse[..., -1:] - coarse) + (fine[..., -1:] - fine))

    def whole(self) -> Tensor:
        """From the start to the end of each chunk, `[c, H]`."""
        return torch.exp(self.coarse[..., -1])


def pass_on(plan: ChunkPlan, states: Tensor, after: Callable[[slice, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The state at the start of each chunk, `[chunks, ...]`, and at the end of each sequence, `[S, ...]`.

    states: with which the sequences begin, `[S, ...]`. after: from chunks, by their numbers, and the states at their
    start to those at their end.
    """
    incoming, first = [], 0
    for present in plan.sequences:
        chunks = slice(first, first + len(present))
        before = states[present]
        incoming.append(before)
        states = states.index_copy(0, present, after(chunks, before))
        first += len(present)
    return torch.cat(incoming), states
