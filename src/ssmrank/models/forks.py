"""Sequences that begin where others end: what several share is computed once, layer by layer.

A causal model's state at the end of a text does not depend on what follows. A forked batch holds segments; each begins
anew or continues another one, and a sequence is what stands on the way from a beginning to a segment that nothing
continues. All segments lie in one packed batch, so that matrix products see all tokens at once; only a layer's mixer
looks at how they hang together, and no state leaves the layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from ssmrank.kernels.packing import sequence_index
from ssmrank.models.packing import Packed, layout, pack_tokens, places_of

TILE = 64
"""Tokens of short segments that attention without FlashAttention takes at once."""

CONVOLUTION_REACH = 3
"""Tokens before the present one that Mamba's convolution reads (its filters have four taps)."""


@dataclass(frozen=True, eq=False)
class Paths:
    """What the segments of a wave continue: for each group of neighbours with one parent all tokens before it.

    tokens: int64 [K], for group after group the batch's tokens that stand before it, from the beginning on; keys: the
    layout of these; queries: that of the wave's tokens as one sequence for each group; segments: the same with one
    token for each segment.
    """

    tokens: torch.Tensor
    keys: Packed
    queries: Packed
    segments: Packed


@dataclass(frozen=True, eq=False)
class Wave:
    """Neighbouring segments of a batch that can be computed together.

    segments, tokens: where they lie in the batch; packed: the layout of them alone; parents: int64 [segments], the
    place in the batch of what each continues, None where all begin anew; paths: None as well.
    """

    segments: slice
    tokens: slice
    packed: Packed
    parents: torch.Tensor | None
    paths: Paths | None

    @cached_property
    def tiles(self) -> Packed:
        """The wave's tokens as sequences of `TILE` tokens or fewer that hold whole segments, or one longer segment."""
        lengths = [0]
        for length in self.packed.lengths:
            if lengths[-1] and lengths[-1] + length > TILE:
                lengths.append(0)
            lengths[-1] += length
        return layout(np.array(lengths), self.packed.cu_seqlens.device)

    @cached_property
    def hidden(self) -> list[torch.Tensor]:
        """For each matrix of `tiles.grid` bool [rows, longest, longest]: which key a query does not attend to.

        Those behind it and those of other segments.
        """
        masks, first = [], 0
        tokens = self.tokens.stop - self.tokens.start
        owners = self.tiles.grid.spread(sequence_index(self.packed.cu_seqlens, tokens))
        for rows, longest in self.tiles.grid.shapes:
            own = owners[first : first + rows * longest].view(rows, longest)
            later = torch.ones(longest, longest, dtype=torch.bool, device=own.device).triu(1)
            masks.append((own[:, :, None] != own[:, None, :]) | later)
            first += rows * longest
        return masks


@dataclass(frozen=True, eq=False)
class Forks:
    """How the segments of a batch hang together.

    stems: waves of segments that others continue, parents before children; ends: waves of those that nothing does;
    history: int64 [S, 3], the tokens before each segment's start, the nearest first, -1: none.
    """

    stems: tuple[Wave, ...]
    ends: tuple[Wave, ...]
    history: torch.Tensor

    @property
    def waves(self) -> tuple[Wave, ...]:
        """All waves in the order in which they are computed, which is that of the batch."""
        return self.stems + self.ends


def pack_forked(tokens: np.ndarray, lengths: np.ndarray, parents: np.ndarray) -> tuple[Packed, np.ndarray]:
    """Packs segments that lie end to end into a batch on the CPU.

    Args:
        tokens: ids of all segments.
        lengths: int64 [S], of each segment, at least one.
        parents: int64 [S], for each the place of the one that it continues, which stands before it; -1: it begins anew.

    Returns:
        The batch, whose `last` are the last tokens of the segments that nothing continues, and for each of these its
        place among the segments. Without any parent it is an ordinary batch.
    """
    if (parents < 0).all():
        return pack_tokens(tokens, lengths), np.arange(len(lengths))
    if (parents >= np.arange(len(lengths))).any():
        raise ValueError("a segment continues one that does not stand before it")
    continued = np.zeros(len(lengths), dtype=bool)
    continued[parents[parents >= 0]] = True
    # Stems by level, then sequences without a stem, then the ends of stems; neighbours have one parent.
    kind = np.where(continued, _levels(parents), np.where(parents < 0, len(lengths), len(lengths) + 1))
    places, placed_above = _ordered(kind, parents)
    ordered = lengths[places]
    packed = pack_tokens(tokens[places_of((np.cumsum(lengths) - lengths)[places], ordered)], ordered)
    starts = packed.cu_seqlens.numpy()
    paths = _paths(starts, placed_above)
    kinds, firsts = np.unique(kind[places], return_index=True)
    waves = [
        _wave(starts, ordered, placed_above, paths, first, last)
        for first, last in pairwise([*firsts.tolist(), len(lengths)])
    ]
    stems = int((kinds < len(lengths)).sum())
    before = np.zeros(len(lengths), dtype=np.int64)
    history = np.full((len(lengths), CONVOLUTION_REACH), -1, dtype=np.int64)
    for stem, path in paths.items():
        nearest = path[: -CONVOLUTION_REACH - 1 : -1]
        before[stem], history[stem, : len(nearest)] = len(path), nearest
    continues = placed_above >= 0
    before = np.where(continues, before[placed_above], 0)
    history = np.where(continues[:, None], history[placed_above], -1)
    packed = replace(
        packed,
        position_ids=packed.position_ids + torch.from_numpy(np.repeat(before, ordered)),
        forks=Forks(tuple(waves[:stems]), tuple(waves[stems:]), torch.from_numpy(history)),
    )
    return packed, places[~continued[places]]


def _levels(parents: np.ndarray) -> np.ndarray:
    """How many segments stand above each, int64 [S]."""
    levels, above = np.zeros(len(parents), dtype=np.int64), parents
    while (above >= 0).any():
        levels += above >= 0
        above = np.where(above >= 0, parents[above], -1)
    return levels


def _ordered(kind: np.ndarray, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segments by kind and, within one, by the new place of what they continue; and these places (-1: none)."""
    new_places = np.full(len(parents), -1)
    order, above, count = [], [], 0
    for value in np.unique(kind):
        members = np.flatnonzero(kind == value)
        ranks = np.where(parents[members] < 0, -1, new_places[parents[members]])
        by_rank = np.argsort(ranks, kind="stable")
        order.append(members[by_rank])
        above.append(ranks[by_rank])
        new_places[order[-1]] = np.arange(count, count + len(members))
        count += len(members)
    return np.concatenate(order), np.concatenate(above)


def _paths(starts: np.ndarray, parents: np.ndarray) -> dict[int, np.ndarray]:
    """For each segment that others continue the tokens up to its end, from the beginning on."""
    paths: dict[int, np.ndarray] = {}
    for stem in np.unique(parents[parents >= 0]).tolist():
        own, above = np.arange(starts[stem], starts[stem + 1]), int(parents[stem])
        paths[stem] = own if above < 0 else np.concatenate([paths[above], own])
    return paths


def _wave(
    starts: np.ndarray, lengths: np.ndarray, parents: np.ndarray, paths: dict[int, np.ndarray], first: int, last: int
) -> Wave:
    tokens = slice(int(starts[first]), int(starts[last]))
    own = layout(lengths[first:last])
    if parents[first] < 0:
        return Wave(slice(first, last), tokens, own, None, None)
    above = parents[first:last]
    groups = first + np.flatnonzero(np.diff(above, prepend=-1))
    group_paths = [paths[parent] for parent in parents[groups].tolist()]
    bounds = np.append(groups, last)
    return Wave(
        slice(first, last),
        tokens,
        own,
        torch.from_numpy(above.copy()),
        Paths(
            torch.from_numpy(np.concatenate(group_paths)),
            layout(np.array([len(path) for path in group_paths])),
            layout(np.diff(starts[bounds])),
            layout(np.diff(bounds)),
        ),
    )
