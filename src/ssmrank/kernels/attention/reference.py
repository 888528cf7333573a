"""Attention by key ranges in plain PyTorch: any device and floating dtype, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmrank.kernels.attention.ranges import KeyRanges


def attention(q: Tensor, k: Tensor, v: Tensor, ranges: KeyRanges, causal: bool, scaling: float, window: int) -> Tensor:
    """See `attention_in_order`; window 0: none."""
    y = torch.empty_like(q)
    shared = q.shape[1] // k.shape[1]
    for first, end, start, count in ranges.blocks.tolist():
        seen = ranges.ranges[start : start + count].tolist()
        places = torch.cat([torch.arange(*each) for each in seen])
        keys, values = (x[places].repeat_interleave(shared, dim=1) for x in (k, v))
        scores = torch.einsum("qhp,khp->hqk", q[first:end], keys) * scaling
        own = torch.arange(first, end)[:, None]
        if causal:
            scores.masked_fill_((places >= seen[-1][0]) & (places > own), float("-inf"))
        if window:
            # Places in the sequence: the queries are in its last range.
            number = torch.arange(len(places))
            own = len(places) - (seen[-1][1] - own)
            scores.masked_fill_((number - own).abs() >= window, float("-inf"))
        y[first:end] = torch.einsum("hqk,khp->qhp", scores.softmax(-1), values)
    return y
