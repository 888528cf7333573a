"""Attention by key ranges on a CPU: numba's loops on torch's threads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssmrank.kernels.attention import cpu_loops as loops
from ssmrank.kernels.attention.ranges import KeyRanges
from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.threads import run_tasks
from ssmrank.kernels.simd.vectors import LOG2_E

_TASKS = 16
"""Tasks for each thread, so that no thread waits long for another one."""


def attention(q: Tensor, k: Tensor, v: Tensor, ranges: KeyRanges, causal: bool, scaling: float, window: int) -> Tensor:
    """See `attention_in_order`; all float32, window 0: none."""
    size = q.shape[-1]
    q, k, v = (_rows(x) for x in (q, k, v))
    y = torch.empty_like(q, memory_format=torch.contiguous_format)
    blocks, factor = ranges.blocks, np.array([scaling * LOG2_E], dtype=np.float32)
    rest = (
        *(blocks.ctypes.data, ranges.ranges.ctypes.data, ranges.most_keys),
        *(number for x in (q, k, v) for number in (x.data_ptr(), 4 * x.stride(0))),
        *(y.data_ptr(), factor.ctypes.data, q.shape[1], k.shape[1], q.shape[2], int(causal), window),
    )
    count = min(len(blocks), _TASKS * torch.get_num_threads())
    cuts = [len(blocks) * part // count for part in range(count + 1)] if count else []
    run_tasks(loops.attention, [(first, last, *rest) for first, last in pairwise(cuts)])
    return y[..., :size]


def _rows(x: Tensor) -> Tensor:
    """`[T, H, P]` with contiguous rows, P filled up with zeros to a multiple of 16."""
    if x.shape[2] % LANES:
        return F.pad(x, (0, -x.shape[2] % LANES))
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
