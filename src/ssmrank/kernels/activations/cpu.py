"""Activations on a CPU: numba's loops on torch's threads."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmrank.kernels.activations import cpu_loops as loops
from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.threads import run_tasks

TASK = 2**15
"""Values of a task."""


def silu(x: Tensor) -> Tensor:
    """See `activations.silu`; float32 or bfloat16."""
    return _activated(x, 0)


def gelu(x: Tensor) -> Tensor:
    """See `activations.gelu`; float32 or bfloat16."""
    return _activated(x, 1)


def _activated(x: Tensor, kind: int) -> Tensor:
    flat = x.contiguous().view(-1)
    count = flat.numel()
    if count % LANES:
        flat = torch.nn.functional.pad(flat, (0, -count % LANES))
    y, half = torch.empty_like(flat), int(x.dtype == torch.bfloat16)
    rest = (flat.data_ptr(), y.data_ptr(), half, kind)
    run_tasks(loops.activate, [(a, min(a + TASK, len(flat)), *rest) for a in range(0, len(flat), TASK)])
    return y[:count].view(x.shape)
