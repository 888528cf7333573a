"""Products in calls of one shape, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def product(x: Tensor, weight: Tensor, rows: int) -> Tensor:
    """x weightᵀ of `[R, K]` and `[N, K]`, in calls of `rows` rows; the last one is filled up with zeros."""
    count = len(x)
    y = x.new_empty(-(-count // rows) * rows, len(weight))
    turned = weight.t()
    for first in range(0, count, rows):
        part = x[first : first + rows]
        if len(part) < rows:
            part = F.pad(part, (0, 0, 0, rows - len(part)))
        torch.mm(part, turned, out=y[first : first + rows])
    return y[:count]
