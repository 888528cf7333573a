"""Sequences with a shared prefix: each prefix is computed once, layer by layer.

A causal model's state at the end of a text does not depend on what follows. So a batch can hold trees of segments. A
root starts a sequence, a branch continues its parent and is continued itself, and a leaf ends a sequence. A sequence is
the path from a root to a leaf. All segments are in one packed batch, so that matrix products see all tokens at once.
Only a layer's mixer looks at the tree, and no state leaves the layer.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from ssmrank.models.packing import Packed, PrefixLevel, PrefixLevels, PrefixPaths, layout, pack_tokens, places_of

CONVOLUTION_REACH = 3
"""How many earlier tokens Mamba's convolution reads (its filters have four taps)."""


def pack_shared(tokens: np.ndarray, lengths: np.ndarray, parents: np.ndarray) -> tuple[Packed, np.ndarray]:
    """Packs segments into a batch on the CPU.

    Args:
        tokens: ids of all segments, end to end.
        lengths: int64 [S], tokens of each segment, at least one.
        parents: int64 [S], the index of the segment that each one continues, lower than its own; -1 for a root.

    Returns:
        The batch, whose `last` are the last tokens of the leaves, and the index of each leaf's segment. Without any
        parent it is an ordinary batch.

    Raises ValueError if a parent does not come before its segment.
    """
    if (parents < 0).all():
        return pack_tokens(tokens, lengths), np.arange(len(lengths))
    if (parents >= np.arange(len(lengths))).any():
        raise ValueError("a segment continues one that does not come before it")
    continued = np.zeros(len(lengths), dtype=bool)
    continued[parents[parents >= 0]] = True
    # Inner segments by level, then sequences of one segment, then the other leaves. Siblings are neighbours.
    kind = np.where(continued, _depths(parents), np.where(parents < 0, len(lengths), len(lengths) + 1))
    places, placed_above = _ordered(kind, parents)
    ordered = lengths[places]
    packed = pack_tokens(tokens[places_of((np.cumsum(lengths) - lengths)[places], ordered)], ordered)
    starts = packed.cu_seqlens.numpy()
    paths = _paths(starts, placed_above)
    kinds, firsts = np.unique(kind[places], return_index=True)
    levels = [
        _level(starts, ordered, placed_above, paths, first, last)
        for first, last in pairwise([*firsts.tolist(), len(lengths)])
    ]
    inner = int((kinds < len(lengths)).sum())
    before = np.zeros(len(lengths), dtype=np.int64)
    history = np.full((len(lengths), CONVOLUTION_REACH), -1, dtype=np.int64)
    for parent, path in paths.items():
        nearest = path[: -CONVOLUTION_REACH - 1 : -1]
        before[parent], history[parent, : len(nearest)] = len(path), nearest
    continues = placed_above >= 0
    before = np.where(continues, before[placed_above], 0)
    history = np.where(continues[:, None], history[placed_above], -1)
    packed = replace(
        packed,
        position_ids=packed.position_ids + torch.from_numpy(np.repeat(before, ordered)),
        prefix_levels=PrefixLevels(tuple(levels[:inner]), tuple(levels[inner:]), torch.from_numpy(history)),
    )
    return packed, places[~continued[places]]


def _depths(parents: np.ndarray) -> np.ndarray:
    """The number of ancestors of each segment, int64 [S]."""
    depths, above = np.zeros(len(parents), dtype=np.int64), parents
    while (above >= 0).any():
        depths += above >= 0
        above = np.where(above >= 0, parents[above], -1)
    return depths


def _ordered(kind: np.ndarray, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segments sorted by kind, then by their parent's new place, and the parents' new places (-1: none)."""
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
    """For each root and branch, the tokens from the start of its root to its own end."""
    paths: dict[int, np.ndarray] = {}
    for parent in np.unique(parents[parents >= 0]).tolist():
        own, above = np.arange(starts[parent], starts[parent + 1]), int(parents[parent])
        paths[parent] = own if above < 0 else np.concatenate([paths[above], own])
    return paths


def _level(
    starts: np.ndarray, lengths: np.ndarray, parents: np.ndarray, paths: dict[int, np.ndarray], first: int, last: int
) -> PrefixLevel:
    tokens = slice(int(starts[first]), int(starts[last]))
    own = layout(lengths[first:last])
    if parents[first] < 0:
        return PrefixLevel(slice(first, last), tokens, own, None, None)
    above = parents[first:last]
    groups = first + np.flatnonzero(np.diff(above, prepend=-1))
    group_paths = [paths[parent] for parent in parents[groups].tolist()]
    bounds = np.append(groups, last)
    return PrefixLevel(
        slice(first, last),
        tokens,
        own,
        torch.from_numpy(above.copy()),
        PrefixPaths(
            torch.from_numpy(np.concatenate(group_paths)),
            layout(np.array([len(path) for path in group_paths])),
            layout(np.diff(starts[bounds])),
            layout(np.diff(bounds)),
        ),
    )
