"""Products on a CPU in float32 by numba's loops: each sum is in one order, whatever the number of rows and threads."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmrank.kernels.products import cpu_loops as loops
from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.threads import run_tasks

TASK = 64
"""The most rows of a task, which stay in a core's cache while all panels of the weight are read."""

DEPTH = 192
"""The longest part of a sum that is added up by itself.

It is MKL's on AMD's processors, and so is `_step`: the sums have the same bits there as the library's of 8 rows or
more, so it does not matter for a score which of the two computes a product.
"""


def panels_of(weight: Tensor) -> Tensor:
    """The weight `[N, K]` as panels `[panels, K, PANEL]`, filled up with zeros."""
    outputs, depth = weight.shape
    padded = F.pad(weight, (0, 0, 0, -outputs % loops.PANEL))
    return padded.view(-1, loops.PANEL, depth).transpose(1, 2).contiguous()


def product(x: Tensor, panels: Tensor, outputs: int, bias: Tensor | None = None) -> Tensor:
    """x weightᵀ + bias `[R, N]` of x `[R, K]`, the weight's panels and bias `[N]`, all float32; not differentiable."""
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, depth = x.shape
    columns = -(-outputs // LANES) * LANES
    y = x.new_empty(rows, columns)
    bias = None if bias is None else F.pad(bias, (0, columns - outputs))
    rest = (
        *(x.data_ptr(), 4 * x.stride(0), panels.data_ptr(), depth, _step(depth), columns),
        *(0 if bias is None else bias.data_ptr(), y.data_ptr()),
    )
    # Few rows are shared among the threads, in multiples of a tile's four.
    task = min(TASK, -(-rows // (4 * torch.get_num_threads())) * 4)
    run_tasks(loops.product, [(first, min(first + task, rows), *rest) for first in range(0, rows, task)])
    return y[:, :outputs]


def _step(depth: int) -> int:
    """The length of the parts of a sum of so many products."""
    return -(-depth // 2) if DEPTH < depth <= 2 * DEPTH else DEPTH
