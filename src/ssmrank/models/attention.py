"""Attention within the sequences of a packed batch, as an attention implementation of transformers.

Here is who attends to whom: a sequence to itself, to a memory, or to prefixes that it continues.
`models.varlen_attention` and `models.continued_attention` compute it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from ssmrank.kernels.attention import attention_in_order
from ssmrank.kernels.dispatch import attends_in_order, is_batch_invariant
from ssmrank.models.continued_attention import attend_after, attend_after_kept
from ssmrank.models.packing import Packed, PrefixLevel
from ssmrank.models.varlen_attention import attend

NAME = "ssmrank_packed"


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
            return attend_after_kept(q, k, v, kept, layer, kept.level.packed.singles, scaling, None)
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
    return attend_after(q, before, own, level, level.paths, queries, scaling, window)


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
    return attend_after_kept(q, k, v, kept, layer, kept.level.packed, scaling, window)


AttentionInterface.register(NAME, packed_attention)
