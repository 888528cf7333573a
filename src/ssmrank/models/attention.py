"""Attention within the sequences of a packed batch, as an attention implementation of transformers.

On a GPU FlashAttention over variable lengths (flash-attn where it is installed, which is what the paper used, else
torch's own); on a CPU scaled dot-product attention over groups of sequences of about equal length.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from ssmrank.models.packing import Packed

NAME = "ssmrank_packed"

_LONGEST_PRODUCT = 1024
"""Keys up to which a CPU may hold all attention weights of a head at once."""


def backend(device: torch.device | str) -> str:
    """Name of what computes attention on this device, for the log."""
    if torch.device(device).type != "cuda":
        return "torch scaled_dot_product_attention by length"
    return "flash-attn" if importlib.util.find_spec("flash_attn") else "torch varlen_attn (FlashAttention-2)"


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: Packed | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed batch; query [1, heads, T, head size], key and value may have fewer heads.

    Returns [1, T, heads, head size]. Attention is causal where the module is. Where `packed` has a memory, attention
    that is not causal is across: key and value are the memory's. Attention dropout is not applied.
    """
    if packed is None:
        raise ValueError("packed attention needs the keyword `packed`")
    causal = bool(getattr(module, "is_causal", False))
    # Not `tensor[0]`: the gradient of an index is a copy into zeros.
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    # Under autocast rotary positions leave q and k in float32.
    q, k = q.to(v.dtype), k.to(v.dtype)
    across = packed.memory is not None and not causal
    # FlashAttention computes in half precision only.
    attend = _flash if q.device.type == "cuda" and q.dtype != torch.float32 else _by_length
    return attend(q, k, v, packed, across, causal, scaling)[None], None


def _by_length(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    across: bool,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    keys = _memory(packed, across).grid
    queries = packed.grid_along_memory if across else keys
    key_cells = [rows * longest for rows, longest in keys.shapes]
    query_cells = [rows * longest for rows, longest in queries.shapes]
    parts = [
        [part.view(*shape, *part.shape[1:]).transpose(1, 2) for part, shape in zip(cells, grid.shapes, strict=True)]
        for cells, grid in [
            (queries.spread(q).split(query_cells), queries),
            (keys.spread(k).split(key_cells), keys),
            (keys.spread(v).split(key_cells), keys),
        ]
    ]
    outputs = []
    for (rows, longest), real, qg, kg, vg in zip(keys.shapes, keys.real.split(key_cells), *parts, strict=True):
        # Padding stands behind the real tokens, so the causal mask alone hides it.
        mask = None if causal or keys.complete else real.view(rows, 1, 1, longest)
        outputs.append(_attend(qg, kg, vg, mask, causal, scaling).transpose(1, 2).flatten(0, 1))
    return queries.collect(torch.cat(outputs))


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of sequences of one length; q, k, v [rows, heads, length, head size], mask [rows, 1, 1, keys]."""
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
    """Two batched matrix products: in bf16 on a CPU, forward and backward, many times faster than torch's fused one."""
    rows, heads, length, size = q.shape
    if k.shape[1] != heads:
        k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    bias = q.new_zeros(())
    if causal:
        bias = q.new_full((length, k.shape[2]), float("-inf")).triu(1)
    elif mask is not None:
        bias = q.new_zeros(mask.shape).masked_fill(~mask, float("-inf")).expand(rows, heads, 1, -1).flatten(0, 1)
    q, k, v = (x.reshape(rows * heads, -1, size) for x in (q, k, v))
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=size**-0.5 if scaling is None else scaling)
    return torch.bmm(torch.softmax(scores, dim=-1), v).unflatten(0, (rows, heads))


def _flash(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    across: bool,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    memory = _memory(packed, across)
    bounds = packed.bounds, memory.bounds
    longest = max(packed.lengths), max(memory.lengths)
    if importlib.util.find_spec("flash_attn"):
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(q, k, v, *bounds, *longest, softmax_scale=scaling, causal=causal)
    from torch.nn.attention.varlen import varlen_attn

    if k.shape[1] != q.shape[1]:  # torch 2.11 has no enable_gqa
        repeats = q.shape[1] // k.shape[1]
        # repeat_interleave would bring the number from the CPU, which a CUDA graph cannot hold.
        k, v = (x.unsqueeze(2).expand(-1, -1, repeats, -1).flatten(1, 2) for x in (k, v))
    window = (-1, 0) if causal else (-1, -1)
    output = varlen_attn(q, k, v, *bounds, *longest, scale=scaling, window_size=window)
    assert isinstance(output, torch.Tensor)
    return output


def _memory(packed: Packed, across: bool) -> Packed:
    if not across:
        return packed
    assert packed.memory is not None
    return packed.memory


AttentionInterface.register(NAME, packed_attention)
