"""Attention of segments to the tokens that they continue, of the same batch or kept, and to their own.

FlashAttention and matrix products compute each of both parts of the softmax alone, and the results are merged. With a
sliding window each segment gets a copy of what it sees instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ssmrank.models.packing import Packed, PrefixLevel, PrefixPaths, layout
from ssmrank.models.varlen_attention import attend_to_memory_causally, flash_part, matrices, uses_flash

if TYPE_CHECKING:
    from ssmrank.models.kept_states import Continuing


def attend_after_kept(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kept: Continuing,
    layer: int,
    queries: Packed,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attention of sequences that continue kept prefixes; k and v are those of the sequences themselves."""
    paths = kept.level.paths
    assert paths is not None
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and window is None:
        # A CPU takes longer to prepare small products in bf16 than to compute them.
        grouped = paths.queries if queries is kept.level.packed else paths.segments
        return _merge_products(
            _padded_products(q, kept, layer, grouped, scaling),
            _own_products(q, k, v, kept.level, queries, scaling),
        ).to(q.dtype)
    return attend_after(q, kept.keys(layer, v.dtype), (k, v), kept.level, paths, queries, scaling, window)


def attend_after(
    q: torch.Tensor,
    before: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]],
    own: tuple[torch.Tensor, torch.Tensor],
    level: PrefixLevel,
    paths: PrefixPaths,
    queries: Packed,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attention to the tokens before each group of segments, and to the segment's own; before: of each group."""
    causal = queries is level.packed
    if window is not None:
        return _windowed_after(q, before, own, level.packed, paths.segments.lengths, scaling, window)
    grouped = paths.queries if causal else paths.segments
    if uses_flash(q):
        # The ancestors are attended to without a mask, the segment itself causally. The sums of the exponentials weight
        # both results.
        k, v = (torch.cat(list(parts)) for parts in before)
        return _merge(
            flash_part(q, k, v, grouped, paths.keys, False, scaling),
            flash_part(q, *own, queries, level.packed, causal, scaling),
        ).to(q.dtype)
    return _merge_products(
        _path_products(q, *before, grouped, scaling),
        _own_products(q, *own, level, queries, scaling),
    ).to(q.dtype)


def _windowed_after(
    q: torch.Tensor,
    before: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]],
    own: tuple[torch.Tensor, torch.Tensor],
    segments: Packed,
    groups: tuple[int, ...],
    scaling: float | None,
    window: int,
) -> torch.Tensor:
    """As `attend_after`, causal with a window; groups: the number of segments in each.

    Each segment gets a copy of what it sees of the tokens before it, since windows end at other places in each.
    """
    joined = []
    for past, present in zip(before, own, strict=True):
        tails = [
            part[max(0, len(part) - window + 1) :]
            for part, count in zip(past, groups, strict=True)
            for _ in range(count)
        ]
        pieces = zip(tails, present.split(segments.lengths), strict=True)
        joined.append([piece for pair in pieces for piece in pair])
    lengths = np.array([len(piece) for piece in joined[0]]).reshape(-1, 2).sum(1)
    queries = replace(segments, memory=layout(lengths, q.device))
    k, v = map(torch.cat, joined)
    return attend_to_memory_causally(q, k, v, queries, scaling, window)


def _merge(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    share = torch.sigmoid(first[1] - second[1])[..., None]
    return first[0] * share + second[0] * (1 - share)


class _Products(NamedTuple):
    """A part of a softmax, which can be merged with other parts.

    weighted: exponentials of the scores less their maximum, times the values, [T, heads, head size]; sums: the sum of
    these exponentials, [T, heads, 1]; largest: the maximum, [T, heads, 1].
    """

    weighted: torch.Tensor
    sums: torch.Tensor
    largest: torch.Tensor


def _path_products(
    q: torch.Tensor,
    k: Sequence[torch.Tensor],
    v: Sequence[torch.Tensor],
    queries: Packed,
    scaling: float | None,
) -> _Products:
    """Each group's queries against all of the group's keys, as one matrix product per group and key head."""
    parts: list[_Products] = []
    for qg, kg, vg in zip(q.split(queries.lengths), k, v, strict=True):
        tokens, heads, size = qg.shape
        shared = heads // kg.shape[1]
        # Heads that share keys count as further queries of one head.
        rows = qg.unflatten(1, (-1, shared)).permute(1, 2, 0, 3).reshape(-1, shared * tokens, size)
        parts.append(
            _Products(
                *(
                    part.unflatten(1, (shared, tokens)).permute(2, 0, 1, 3).flatten(1, 2)
                    for part in _products(rows, kg.transpose(0, 1), vg.transpose(0, 1), None, scaling)
                )
            )
        )
    if len(parts) == 1:
        return parts[0]
    return _Products(*(torch.cat(kind) for kind in zip(*parts, strict=True)))


def _padded_products(
    q: torch.Tensor, kept: Continuing, layer: int, queries: Packed, scaling: float | None
) -> _Products:
    """Each group's queries against all keys of its kept prefix, in one product for prefixes of similar length."""
    grid = queries.grid_along_memory
    parts: list[_Products] = []
    cells = grid.spread(q).split(grid.sizes)
    for own, (rows, longest), (k, v, hidden) in zip(cells, grid.shapes, kept.padded_keys(layer, q.dtype), strict=True):
        heads, shared = k.shape[1], q.shape[1] // k.shape[1]
        # Heads that share keys count as further queries of one head.
        asked = own.view(rows, longest, heads, shared, -1).permute(0, 2, 3, 1, 4).reshape(rows * heads, -1, q.shape[2])
        found = _products(asked, k.flatten(0, 1), v.flatten(0, 1), hidden, scaling)
        back = (part.view(rows, heads, shared, longest, -1).permute(0, 3, 1, 2, 4) for part in found)
        parts.append(_Products(*(part.reshape(rows * longest, heads * shared, -1) for part in back)))
    return _Products(*(grid.collect(torch.cat(kind)) for kind in zip(*parts, strict=True)))


def _own_products(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, level: PrefixLevel, queries: Packed, scaling: float | None
) -> _Products:
    """Each segment's queries against its own keys.

    For causal attention, several short segments are computed at once with a mask between them: one larger product
    instead of many small ones. For one query per segment, segments of similar length are computed at once.
    """
    causal = queries is level.packed
    keys = level.tiles.grid if causal else level.packed.grid
    query_grid = keys if causal else queries.grid_along_memory
    real = [part.view(shape) for part, shape in zip(keys.real.split(keys.sizes), keys.shapes, strict=True)]
    hidden = level.hidden if causal else [~part[:, None, :] for part in real]
    parts: list[_Products] = []
    for mask, (qg, kg, vg) in zip(hidden, matrices(q, k, v, query_grid, keys), strict=True):
        rows, heads = qg.shape[:2]
        if kg.shape[1] != heads:
            kg, vg = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (kg, vg))
        parts.append(
            _Products(
                *(
                    part.unflatten(0, (rows, heads)).transpose(1, 2).flatten(0, 1)
                    for part in _products(qg.flatten(0, 1), kg.flatten(0, 1), vg.flatten(0, 1), mask, scaling)
                )
            )
        )
    return _Products(*(query_grid.collect(torch.cat(kind)) for kind in zip(*parts, strict=True)))


def _products(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor | None, scaling: float | None
) -> _Products:
    """The products of matrices [rows · heads, T, head size]; hidden: bool [rows, T, keys], true for masked scores."""
    scores = torch.bmm(q * (q.shape[-1] ** -0.5 if scaling is None else scaling), k.transpose(1, 2)).float()
    if hidden is not None:
        scores.unflatten(0, (len(hidden), -1)).masked_fill_(hidden[:, None], float("-inf"))
    largest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(largest).exp_()
    return _Products(torch.bmm(weights.to(v.dtype), v).float(), weights.sum(-1, keepdim=True), largest)


def _merge_products(first: _Products, second: _Products) -> torch.Tensor:
    largest = torch.maximum(first.largest, second.largest)
    one, other = ((part.largest - largest).exp_() for part in (first, second))
    return (first.weighted * one + second.weighted * other) / (first.sums * one + second.sums * other)
