"""Helpers that derive from `cu_seqlens` what kernels need."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def sequence_index(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """The sequence of each token, int32 `[T]`, on the device of `cu_seqlens`; nothing waits for the device."""
    positions = torch.arange(tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), positions, right=True, out_int32=True)


def sequence_bounds(cu_seqlens: Tensor) -> list[tuple[int, int]]:
    """The first token of each sequence and the end, the token after its last."""
    bounds = cu_seqlens.tolist()
    return list(itertools.pairwise(bounds))


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd records operations on these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def chosen_states(states: Tensor | None, index: Tensor) -> Tensor | None:
    """The row of `states` that each sequence begins with; zeros where the index is negative."""
    if states is None:
        return None
    known = (index >= 0).view(-1, *[1] * (states.ndim - 1))
    return torch.where(known, states[index.clamp(min=0)], 0.0)


def written(y: Tensor, out: Tensor | None) -> Tensor:
    """y, or `out` if it is given, with y's values copied unless they are there already."""
    if out is None or out is y:
        return y
    return out.copy_(y)
