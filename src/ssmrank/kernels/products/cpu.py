"""Products on a CPU in float32 by numba's loops: each sum is in one order, whatever the number of rows and threads."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ssmrank.kernels.products import cpu_loops as loops
from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.threads import run_tasks

TASK = 64
"""Rows of a task, which stay in a core's cache while all panels of the weight are read."""


def panels_of(weight: Tensor) -> Tensor:
    """The weight `[N, K]` as panels `[panels, K, PANEL]`, filled up with zeros."""
    outputs, depth = weight.shape
    padded = F.pad(weight, (0, 0, 0, -outputs % loops.PANEL))
    return padded.view(-1, loops.PANEL, depth).transpose(1, 2).contiguous()


def product(x: Tensor, panels: Tensor, outputs: int) -> Tensor:
    """x weightᵀ `[R, N]` of x `[R, K]` and the weight's panels, all float32; not differentiable."""
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, depth = x.shape
    columns = -(-outputs // LANES) * LANES
    y = x.new_empty(rows, columns)
    rest = (x.data_ptr(), 4 * x.stride(0), panels.data_ptr(), depth, columns, y.data_ptr())
    run_tasks(loops.product, [(first, min(first + TASK, rows), *rest) for first in range(0, rows, TASK)])
    return y[:, :outputs]
