"""What `cu_seqlens` says, in the forms that kernels ask for."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor


def sequence_index(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """The sequence of each token, int32 `[T]`, on the device of `cu_seqlens`; nothing waits for the device."""
    positions = torch.arange(tokens, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), positions, right=True, out_int32=True)


@cache
def is_available(package: str) -> bool:
    """Whether an optional package can be imported: mamba_ssm, causal_conv1d, triton."""
    if importlib.util.find_spec(package) is None:
        return False
    try:
        importlib.import_module(package)
    except Exception:  # built for another torch or without CUDA: as good as absent
        return False
    return True
