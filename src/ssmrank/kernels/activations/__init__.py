"""SiLU and GELU with the same instructions for each value, wherever it is.

PyTorch computes the last values of a tensor, or of a thread's share, by another function than whole vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation


def silu(x: Tensor) -> Tensor:
    """x / (1 + e^-x) of any shape, in x's dtype, computed in float32 (float64 if x is); not differentiable."""
    implementation = dispatch.activation(x)
    if implementation is Implementation.GPU:
        from ssmrank.kernels.activations import gpu

        return gpu.silu(x)
    if implementation is Implementation.CPU:
        from ssmrank.kernels.activations import cpu

        return cpu.silu(x)
    wide = _wide(x)
    return wide.div(torch.exp(-wide).add_(1.0)).to(x.dtype)


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's share below x, as `silu`; on a CPU its error is 2e-7 of |x|."""
    implementation = dispatch.activation(x)
    if implementation is Implementation.GPU:
        from ssmrank.kernels.activations import gpu

        return gpu.gelu(x)
    if implementation is Implementation.CPU:
        from ssmrank.kernels.activations import cpu

        return cpu.gelu(x)
    wide = _wide(x)
    return torch.erf(wide * 0.5**0.5).add_(1.0).mul_(wide).mul_(0.5).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
