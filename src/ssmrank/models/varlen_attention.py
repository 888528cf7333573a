"""Attention within sequences of any lengths end to end, by the implementation that the device has.

On a GPU it is FlashAttention over variable lengths: flash-attn if it is installed, which the paper used, else torch's
own. On a CPU, or in float32, it is scaled dot-product attention over groups of sequences of similar length; where
scores must not depend on the batch, a CPU goes through a sequence's keys in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from ssmrank.kernels.attention import attention_in_order
from ssmrank.kernels.dispatch import attends_in_order, is_available
from ssmrank.models.length_grid import LengthGrid
from ssmrank.models.packing import Packed

_LONGEST_PRODUCT = 1024
"""The largest number of keys for which a CPU holds all attention weights of a head at once."""


def backend(device: torch.device | str, precision: str) -> str:
    """The name, for the log, of the implementation that this device uses in this precision."""
    if torch.device(device).type != "cuda" or precision == "fp32":
        return "torch scaled_dot_product_attention by length"
    return "flash-attn" if is_available("flash_attn") else "torch varlen_attn (FlashAttention-2)"


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


def attend_to_memory_causally(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, scaling: float | None, window: int | None
) -> torch.Tensor:
    """Attention of the last tokens of each sequence of the memory, causal; k and v are those of the memory."""
    return _implementation(q)(q, k, v, packed, True, True, scaling, window)


def uses_flash(q: torch.Tensor) -> bool:
    """Whether FlashAttention serves these queries. It computes only in half precision, heads in units of 16 bytes."""
    return q.device.type == "cuda" and q.dtype != torch.float32 and q.shape[-1] % 8 == 0


def _implementation(q: torch.Tensor) -> Callable[..., torch.Tensor]:
    return _flash if uses_flash(q) else _by_length


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
    reals = zip(keys.real.split(keys.sizes), queries.real.split(queries.sizes), strict=True)
    for (real, asked), (qg, kg, vg) in zip(reals, matrices(q, k, v, queries, keys), strict=True):
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


def matrices(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: LengthGrid, keys: LengthGrid
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields each matrix's queries, keys and values: [rows, heads, longest, head size]."""
    parts = [
        [
            part.view(*shape, *part.shape[1:]).transpose(1, 2)
            for part, shape in zip(grid.spread(tensor).split(grid.sizes), grid.shapes, strict=True)
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


def flash_part(
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


def _memory(packed: Packed, across: bool) -> Packed:
    if not across:
        return packed
    assert packed.memory is not None
    return packed.memory
