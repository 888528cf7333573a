"""The causal convolution in plain PyTorch: slow, any floating dtype (float64 too), autograd through.

It states what the fast kernels compute, and they are tested against it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmrank.kernels.packing import sequence_bounds


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor, activation: str | None = None
) -> Tensor:
    """y[t, c] = bias[c] + sum over w of weight[c, w] · x[t - (W - 1) + w, c], within a sequence; `[T, C]`."""
    width = weight.shape[1]
    pieces = []
    for start, end in sequence_bounds(cu_seqlens):
        padded = F.pad(x[start:end], (0, 0, width - 1, 0))
        pieces.append(torch.stack([padded[w : w + end - start] * weight[:, w] for w in range(width)]).sum(0))
    y = torch.cat(pieces) if pieces else x
    if bias is not None:
        y = y + bias
    return F.silu(y) if activation == "silu" else y
