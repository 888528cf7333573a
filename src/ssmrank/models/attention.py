"""Attention within the sequences of a packed batch, as an attention implementation of transformers.

On a GPU it is FlashAttention over variable lengths: flash-attn if it is installed, which the paper used, else torch's
own. On a CPU, or in float32, it is scaled dot-product attention over groups of sequences of similar length; where
scores must not depend on the batch, a CPU goes through a sequence's keys in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from ssmrank.kernels.attention import attention_in_order
from ssmrank.kernels.dispatch import attends_in_order, is_available, is_batch_invariant
from ssmrank.models.length_grid import LengthGrid
from ssmrank.models.packing import Packed, PrefixLevel, PrefixPaths, layout

if TYPE_CHECKING:
    from ssmrank.models.kept_states import Continuing

NAME = "ssmrank_packed"

_LONGEST_PRODUCT = 1024
"""The largest number of keys for which a CPU holds all attention weights of a head at once."""


def backend(device: torch.device | str, precision: str) -> str:
    """The name, for the log, of the implementation that this device uses in this precision."""
    if torch.device(device).type != "cuda" or precision == "fp32":
        return "torch scaled_dot_product_attention by length"
    return "flash-attn" if is_available("flash_attn") else "torch varlen_attn (FlashAttention-2)"


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: Packed | None = None,
    sliding_window: int | None = None,
    layer: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed batch; query: [1, heads, T, head size], key and value may have fewer heads.

    Returns [1, T, heads, head size]. Attention is causal if `module.is_causal`. If `packed` has a memory, attention
    that is not causal is cross attention: key and value belong to the memory. With a sliding window a token attends to
    tokens fewer than `sliding_window` positions away. Kept states go by the number of the layer, which is the module's
    without `layer`. Attention dropout is not applied.

    Raises ValueError without `packed`, and for shared prefixes without causal attention.
    """
    if packed is None:
        raise ValueError("packed attention needs the keyword `packed`")
    causal = bool(getattr(module, "is_causal", False))
    window = sliding_window if hides(packed, sliding_window) else None
    # Not `tensor[0]`: the gradient of an index is a copy into zeros.
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    # Under autocast, rotary positions leave q and k in float32.
    q, k = q.to(v.dtype), k.to(v.dtype)
    if packed.prefix_levels is not None:
        if not causal:
            raise ValueError("a batch with shared prefixes needs causal attention")
        if attends_in_order(q):
            return attend(q, k, v, packed, causal, scaling, window)[None], None
        return prefix_attention(q, k, v, packed, scaling, window)[None], None
    if packed.kept is not None:
        number: Any = module.layer_idx if layer is None else layer
        return _kept_attention(q, k, v, packed, scaling, number, window)[None], None
    return attend(q, k, v, packed, causal, scaling, window)[None], None


def hides(packed: Packed, window: int | None) -> bool:
    """Whether a sliding window may hide tokens of this batch.

    Scores that do not depend on the batch must not depend on the other sequences' lengths either.
    """
    return window is not None and (packed.reach > window or is_batch_invariant())


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    causal: bool,
    scaling: float | None,
    window: int | None = None,
) -> torch.Tensor:
    """Attention without shared prefixes; q and the result: [T, heads, head size], k and v may have fewer heads."""
    across = packed.memory is not None and not causal
    if attends_in_order(q):
        ranges = packed.key_ranges_of_memory if across else packed.key_ranges
        return attention_in_order(q, k, v, ranges, causal=causal, scaling=scaling, window=window)
    return _implementation(q)(q, k, v, packed, across, causal, scaling, window)


def last_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, scaling: float | None, layer: int | None = None
) -> torch.Tensor:
    """Attention of one token of each sequence to its whole sequence; q and the result: [R, heads, head size].

    In a causal model it must be the last token, else it may be any. With shared prefixes the R sequences are those of
    the leaves. layer: the layer's number, which kept states go by.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)
    kept: Any = packed.kept
    if kept is not None:
        assert layer is not None
        if not kept.keeps:
            return _attention_on(q, k, v, kept, layer, kept.level.packed.singles, scaling, None)
        kept.keep_keys(layer, k, v)
    if attends_in_order(q):
        return attention_in_order(q, k, v, packed.last_key_ranges, causal=False, scaling=scaling)
    if packed.prefix_levels is None:
        return attend(q, k, v, packed.singles, False, scaling)
    outputs, first = [], 0
    for level in packed.prefix_levels.leaves:
        rows = slice(first, first + len(level.packed.lengths))
        singles = level.packed.singles
        outputs.append(_level_attention(q[rows], k, v, level, singles, scaling, None))
        first = rows.stop
    return torch.cat(outputs)


def prefix_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    scaling: float | None,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention with shared prefixes, shaped as in `attend`: segments attend to themselves and ancestors."""
    assert packed.prefix_levels is not None
    levels = packed.prefix_levels.all
    return torch.cat(
        [_level_attention(q[level.tokens], k, v, level, level.packed, scaling, window) for level in levels]
    )


def _level_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    level: PrefixLevel,
    queries: Packed,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attention of a level's queries; k and v are those of the whole batch."""
    own = k[level.tokens], v[level.tokens]
    if level.paths is None:
        return attend(q, *own, queries, queries is level.packed, scaling, window)
    tokens, keys = level.paths.tokens, level.paths.keys.lengths
    before = k.index_select(0, tokens).split(keys), v.index_select(0, tokens).split(keys)
    return _attention_after(q, before, own, level, level.paths, queries, scaling, window)


def _kept_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    scaling: float | None,
    layer: int,
    window: int | None,
) -> torch.Tensor:
    """Causal attention of a layer that keeps keys and values, or continues kept ones; shaped as in `attend`."""
    kept: Any = packed.kept
    if kept.keeps:
        kept.keep_keys(layer, k, v)
        return attend(q, k, v, packed, True, scaling, window)
    return _attention_on(q, k, v, kept, layer, kept.level.packed, scaling, window)


def _attention_on(
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
    return _attention_after(q, kept.keys(layer, v.dtype), (k, v), kept.level, paths, queries, scaling, window)


def _attention_after(
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
    if _implementation(q) is _flash:
        # The ancestors are attended to without a mask, the segment itself causally. The sums of the exponentials weight
        # both results.
        k, v = (torch.cat(list(parts)) for parts in before)
        return _merge(
            _flash_part(q, k, v, grouped, paths.keys, False, scaling),
            _flash_part(q, *own, queries, level.packed, causal, scaling),
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
    """As `_attention_after`, causal with a window; groups: the number of segments in each.

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
    return _implementation(q)(q, k, v, queries, True, True, scaling, window)


def _implementation(q: torch.Tensor) -> Callable[..., torch.Tensor]:
    # FlashAttention computes only in half precision, and reads heads in units of 16 bytes.
    flash = q.device.type == "cuda" and q.dtype != torch.float32 and q.shape[-1] % 8 == 0
    return _flash if flash else _by_length


def _by_length(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    across: bool,
    causal: bool,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    keys = _memory(packed, across).grid
    queries = packed.grid_along_memory if across else keys
    outputs = []
    reals = zip(keys.real.split(_cells(keys)), queries.real.split(_cells(queries)), strict=True)
    for (real, asked), (qg, kg, vg) in zip(reals, _grids(q, k, v, queries, keys), strict=True):
        # Padding comes after the real tokens, so the causal mask alone hides it.
        mask = None if causal or keys.complete else real.view(kg.shape[0], 1, 1, kg.shape[2])
        if window is not None and (kg.shape[2] > window or across):
            mask = _windowed(asked.view(kg.shape[0], -1), real.view(kg.shape[0], -1), window, causal)
        hides = causal and mask is None
        outputs.append(_attend(qg, kg, vg, mask, hides, scaling).transpose(1, 2).flatten(0, 1))
    return queries.collect(torch.cat(outputs))


def _windowed(asked: torch.Tensor, real: torch.Tensor, window: int, causal: bool) -> torch.Tensor:
    """Which keys each query attends to, bool [rows, 1, queries, keys]; the last query is at the place of the last key.

    asked, real: bool [rows, queries] and [rows, keys], false for padding. Padding cells are copies of a sequence's last
    token and attend to the same keys, because a row without keys would make their gradients NaN.
    """
    numbers = torch.arange(asked.shape[1], device=real.device)
    places = torch.arange(real.shape[1], device=real.device)
    count, keys = asked.sum(1, keepdim=True), real.sum(1, keepdim=True)
    distance = (torch.minimum(numbers, count - 1) + keys - count)[:, :, None] - places
    near = (distance >= 0) & (distance < window) if causal else distance.abs() < window
    return (near & real[:, None, :])[:, None]


def _grids(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: LengthGrid, keys: LengthGrid
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields each matrix's queries, keys and values: [rows, heads, longest, head size]."""
    parts = [
        [
            part.view(*shape, *part.shape[1:]).transpose(1, 2)
            for part, shape in zip(grid.spread(tensor).split(_cells(grid)), grid.shapes, strict=True)
        ]
        for tensor, grid in ((q, queries), (k, keys), (v, keys))
    ]
    yield from zip(*parts, strict=True)


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of sequences of one length.

    q, k, v: [rows, heads, length, head size]; mask: bool [rows, 1, 1 or length, keys], true for keys that are attended
    to.
    """
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and k.shape[2] <= _LONGEST_PRODUCT:
        return _attend_by_products(q, k, v, mask, causal, scaling)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=k.shape[1] != q.shape[1]
    )


def _attend_by_products(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """Attention as two batched matrix products, in bf16 on a CPU many times faster than torch's fused kernel."""
    rows, heads, length, size = q.shape
    if k.shape[1] != heads:
        k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    bias = q.new_zeros(())
    if causal:
        bias = q.new_full((length, k.shape[2]), float("-inf")).triu(1)
    elif mask is not None:
        bias = q.new_zeros(mask.shape).masked_fill(~mask, float("-inf")).expand(rows, heads, -1, -1).flatten(0, 1)
    q, k, v = (x.reshape(rows * heads, -1, size) for x in (q, k, v))
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=size**-0.5 if scaling is None else scaling)
    return torch.bmm(torch.softmax(scores, dim=-1), v).unflatten(0, (rows, heads))


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
    cells = grid.spread(q).split(_cells(grid))
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
    real = [part.view(shape) for part, shape in zip(keys.real.split(_cells(keys)), keys.shapes, strict=True)]
    hidden = level.hidden if causal else [~part[:, None, :] for part in real]
    parts: list[_Products] = []
    for mask, (qg, kg, vg) in zip(hidden, _grids(q, k, v, query_grid, keys), strict=True):
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


def _cells(grid: LengthGrid) -> list[int]:
    return [rows * longest for rows, longest in grid.shapes]


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


def _flash_part(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    queries: Packed,
    keys: Packed,
    causal: bool,
    scaling: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [T, heads, head size] and the log of the sum of its exponentials, float32 [T, heads]."""
    bounds, longest = (queries.bounds, keys.bounds), (queries.longest, keys.longest)
    if is_available("flash_attn"):
        from flash_attn import flash_attn_varlen_func

        output, sums, _ = flash_attn_varlen_func(
            q, k, v, *bounds, *longest, softmax_scale=scaling, causal=causal, return_attn_probs=True
        )
        return output, sums.transpose(0, 1)
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    k, v = (_for_all_heads(x, q.shape[1]) for x in (k, v))
    window = (-1, 0) if causal else (-1, -1)
    result = varlen_attn(q, k, v, *bounds, *longest, scale=scaling, window_size=window, return_aux=AuxRequest(lse=True))
    assert isinstance(result, tuple)
    # The documentation says [T, heads], but the kernels return [heads, T].
    heads_first = result[1].shape[0] == q.shape[1]
    return result[0], result[1].transpose(0, 1) if heads_first else result[1]


def _for_all_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Keys or values [T, heads, head size], repeated for heads that share them: torch 2.11 has no enable_gqa here."""
    repeats = heads // x.shape[1]
    # repeat_interleave would copy the number from the CPU, which makes the GPU wait and cannot be in a CUDA graph.
    return x if repeats == 1 else x.unsqueeze(2).expand(-1, -1, repeats, -1).flatten(1, 2)


def _merge(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    share = torch.sigmoid(first[1] - second[1])[..., None]
    return first[0] * share + second[0] * (1 - share)


def _flash(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    across: bool,
    causal: bool,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    memory = _memory(packed, across)
    bounds, longest = (packed.bounds, memory.bounds), (packed.longest, memory.longest)
    reach = -1 if window is None else window - 1  # -1: no limit
    sides = (reach, 0 if causal else reach)
    if is_available("flash_attn"):
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(
            q, k, v, *bounds, *longest, softmax_scale=scaling, causal=causal, window_size=sides
        )
    from torch.nn.attention.varlen import varlen_attn

    k, v = (_for_all_heads(x, q.shape[1]) for x in (k, v))
    output = varlen_attn(q, k, v, *bounds, *longest, scale=scaling, window_size=sides)
    assert isinstance(output, torch.Tensor)
    return output


def _memory(packed: Packed, across: bool) -> Packed:
    if not across:
        return packed
    assert packed.memory is not None
    return packed.memory


AttentionInterface.register(NAME, packed_attention)
