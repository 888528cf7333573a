"""Sequences that begin where others end: what several share is computed once, layer by layer.

A causal model's state at the end of a text does not depend on what follows. A forked batch holds segments; each begins
anew or continues another one, and a sequence is what stands on the way from a beginning to a segment that nothing
continues. All segments lie in one packed batch, so that matrix products see all tokens at once; only a layer's mixer
looks at how they hang together, and no state leaves the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ssmrank.models.packing import Packed, pack

CONVOLUTION_REACH = 3
"""Tokens before the present one that Mamba's convolution reads (its filters have four taps)."""


@dataclass(frozen=True, eq=False)
class Paths:
    """What the segments of a wave continue: for each group of neighbours with one parent all tokens before it.

    tokens: int64 [K], for group after group the batch's tokens that stand before it, from the beginning on; keys: as
    many sequences of these lengths; queries: the wave's tokens as one sequence for each group; segments: the same with
    one token for each segment.
    """

    tokens: torch.Tensor
    keys: Packed
    queries: Packed
    segments: Packed


@dataclass(frozen=True, eq=False)
class Wave:
    """Neighbouring segments of a batch that can be computed together.

    segments, tokens: where they lie in the batch; packed: they as a batch of their own, each beginning anew; parents:
    int64 [segments], the place in the batch of what each continues, None where all begin anew; paths: None as well.
    """

    segments: slice
    tokens: slice
    packed: Packed
    parents: torch.Tensor | None
    paths: Paths | None


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


def pack_forked(segments: Sequence[np.ndarray], parents: Sequence[int]) -> tuple[Packed, np.ndarray]:
    """Packs segments into a batch on the CPU.

    Args:
        segments: token ids, at least one each.
        parents: for each segment the place of the one that it continues, which stands before it; -1: it begins anew.

    Returns:
        The batch, whose `last` are the last tokens of the segments that nothing continues, and for each of these its
        place in `segments`. Without any parent it is an ordinary batch.
    """
    above = np.asarray(parents, dtype=np.int64)
    if (above < 0).all():
        return pack(segments), np.arange(len(segments))
    if (above >= np.arange(len(segments))).any():
        raise ValueError("a segment continues one that does not stand before it")
    levels = np.zeros(len(segments), dtype=np.int64)
    for place in np.flatnonzero(above >= 0):
        levels[place] = levels[above[place]] + 1
    continued = np.zeros(len(segments), dtype=bool)
    continued[above[above >= 0]] = True
    # Stems by level, then sequences without a stem, then the ends of stems; neighbours have one parent.
    kind = np.where(continued, levels, np.where(above < 0, len(segments), len(segments) + 1))
    stem_place = np.full(len(segments), -1)
    order: list[int] = []
    for value in np.unique(kind):
        members = np.flatnonzero(kind == value)
        ranks = np.where(above[members] < 0, -1, stem_place[above[members]])
        members = members[np.argsort(ranks, kind="stable")]
        stem_place[members] = np.arange(len(order), len(order) + len(members))
        order.extend(members.tolist())
    places = np.asarray(order)
    placed_above = np.where(above[places] < 0, -1, stem_place[above[places]])
    packed = pack([segments[place] for place in order])
    lengths = np.asarray(packed.lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    paths = _paths(starts, placed_above)
    waves = [
        _wave(packed, starts, placed_above, paths, int(members[0]), int(members[-1]) + 1)
        for value in np.unique(kind)
        for members in [np.flatnonzero(kind[places] == value)]
    ]
    stems = int((np.unique(kind) < len(segments)).sum())
    before = np.array([0 if path is None else len(path) for path in paths])
    history = np.full((len(segments), CONVOLUTION_REACH), -1, dtype=np.int64)
    for segment, path in enumerate(paths):
        if path is not None:
            nearest = path[: -CONVOLUTION_REACH - 1 : -1]
            history[segment, : len(nearest)] = nearest
    packed = replace(
        packed,
        position_ids=packed.position_ids + torch.from_numpy(np.repeat(before, lengths)),
        forks=Forks(tuple(waves[:stems]), tuple(waves[stems:]), torch.from_numpy(history)),
    )
    return packed, places[~continued[places]]


def _paths(starts: np.ndarray, parents: np.ndarray) -> list[np.ndarray | None]:
    """For each segment the tokens before it, from the beginning on; None where it begins anew."""
    paths: list[np.ndarray | None] = []
    below: dict[int, np.ndarray] = {}
    for parent in parents.tolist():
        if parent < 0:
            paths.append(None)
            continue
        if parent not in below:
            own = np.arange(starts[parent], starts[parent + 1])
            above = paths[parent]
            below[parent] = own if above is None else np.concatenate([above, own])
        paths.append(below[parent])
    return paths


def _wave(
    packed: Packed, starts: np.ndarray, parents: np.ndarray, paths: list[np.ndarray | None], first: int, last: int
) -> Wave:
    tokens = slice(int(starts[first]), int(starts[last]))
    own = Packed(
        input_ids=packed.input_ids[tokens],
        position_ids=packed.position_ids[tokens],
        sequence_ids=packed.sequence_ids[tokens] - first,
        cu_seqlens=packed.cu_seqlens[first : last + 1] - tokens.start,
        lengths=packed.lengths[first:last],
    )
    if parents[first] < 0:
        return Wave(slice(first, last), tokens, own, None, None)
    above = parents[first:last]
    groups = first + np.flatnonzero(np.diff(above, prepend=-1))
    group_paths = [path for group in groups if (path := paths[group]) is not None]
    bounds = np.append(groups, last)
    tokens_of = torch.from_numpy(np.concatenate(group_paths))
    return Wave(
        slice(first, last),
        tokens,
        own,
        torch.from_numpy(above.copy()),
        Paths(
            tokens_of,
            _of_lengths([len(path) for path in group_paths]),
            _of_lengths(np.diff(starts[bounds]).tolist()),
            _of_lengths(np.diff(bounds).tolist()),
        ),
    )


def _of_lengths(lengths: list[int]) -> Packed:
    """A batch of which only where its sequences begin is read."""
    return pack([np.zeros(length, dtype=np.int64) for length in lengths])
