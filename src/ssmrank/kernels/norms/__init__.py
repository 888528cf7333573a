"""Root-mean-square norms (Zhang & Sennrich 2019) and layer norms (Ba et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation
from ssmrank.kernels.float8 import Rows, quantized
from ssmrank.kernels.norms import blocked, reference
from ssmrank.kernels.norms.reference import Unscaled


def rms_norm(x: Tensor, weight: Tensor, eps: float, group_size: int | None = None) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, computed in float32 (float64 if x is).

    group_size: a divisor of the channels; the mean is over groups of so many. None: over all.

    The result has x's dtype; on a GPU without gradients it has autocast's dtype, in which matmuls read it.
    """
    return _norm(x, None, weight, eps, group_size or x.shape[-1])


def add_rms_norm(
    residual: Tensor, update: Tensor | Unscaled | None, weight: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Adds the last layer's update to a residual stream and computes its norm for the next layer.

    Args:
        residual: `[..., C]`, the stream.
        update: `[..., C]` or None: there is nothing to add. Rows that are still to be scaled are for `[T, C]` without
            gradients.
        weight: `[C]`.
        eps: added to the mean square.
        dtype: of the norm; None: what the next matrix product takes, which is autocast's dtype or else the weight's.

    Returns:
        The norm and the sum, `[..., C]`. The sum is in the wider dtype of the two, so a stream in float32 remains so.
    """
    if dtype is None:
        dtype = _autocast_dtype(residual) or weight.dtype
    if dispatch.norm(residual, residual.shape[-1]) is Implementation.GPU:
        from ssmrank.kernels.norms import gpu

        if isinstance(update, Unscaled):
            return gpu.add_rms_norm_unscaled(residual, update, weight, eps, dtype)
        return gpu.add_rms_norm(residual, update, weight, eps, dtype)
    if isinstance(update, Unscaled):
        update = update.scaled().to(update.rows.dtype)
    total = residual if update is None else residual + update
    return rms_norm(total, weight, eps).to(dtype), total


def add_rms_norm_float8(residual: Tensor, update: Tensor | None, weight: Tensor, eps: float) -> tuple[Rows, Tensor]:
    """As `add_rms_norm` of `[T, C]` without gradients; the norm is rounded to 8-bit floats."""
    if dispatch.norm(residual, residual.shape[-1]) is Implementation.GPU:
        from ssmrank.kernels.norms import gpu

        return gpu.add_rms_norm_float8(residual, update, weight, eps)
    total = residual if update is None else residual + update
    return quantized(_norm(total.float(), None, weight, eps, total.shape[-1])), total


def add_layer_norm(residual: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The layer norm of `[..., C]` residual + update over the last dimension.

    Args:
        residual: `[..., C]`.
        update: `[..., C]` or None: there is nothing to add.
        weight, bias: `[C]`.
        eps: added to the variance.

    Returns:
        `[..., C]` in the wider dtype of the two, or in float32 under autocast, as PyTorch's layer norm is. On a GPU
        without gradients it is in autocast's dtype. Matmuls read that dtype in any case, and a residual stream that
        goes through each norm then takes half of the time.
    """
    if dispatch.norm(residual, residual.shape[-1]) is Implementation.GPU:
        from ssmrank.kernels.norms import gpu

        dtype = residual.dtype if update is None else torch.promote_types(residual.dtype, update.dtype)
        if _autocast_dtype(residual) is not None:
            dtype = _inference_dtype(residual) or torch.float32
        return gpu.add_layer_norm(residual, update, weight, bias, eps, dtype)
    total = residual if update is None else residual + update
    return torch.nn.functional.layer_norm(total, weight.shape, weight, bias, eps)


def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float, group_size: int | None = None) -> Tensor:
    """Mamba-2's norm: of x · silu(z), over groups of `group_size` channels (None: all channels).

    Args:
        x, z: `[..., C]`.
        weight: `[C]`.
        eps: added to the mean square.
        group_size: a divisor of C.

    Returns:
        `[..., C]` in x's dtype, computed in float32 (float64 if x is).
    """
    return _norm(x, z, weight, eps, group_size or x.shape[-1])


def gated_rms_norm_float8(x: Tensor, z: Tensor, weight: Tensor, eps: float, group_size: int | None = None) -> Rows:
    """As `gated_rms_norm` of `[T, C]` without gradients, rounded to 8-bit floats."""
    size = group_size or x.shape[-1]
    if dispatch.norm(x, size) is Implementation.GPU and size == x.shape[-1]:
        from ssmrank.kernels.norms import gpu

        return gpu.gated_rms_norm_float8(x, z, weight, eps)
    return quantized(_norm(x.float(), z, weight, eps, size))


def _norm(x: Tensor, z: Tensor | None, weight: Tensor, eps: float, size: int) -> Tensor:
    if dispatch.norm(x, size) is Implementation.GPU:
        from ssmrank.kernels.norms import gpu

        if z is None and size == x.shape[-1]:
            return gpu.add_rms_norm(x, None, weight, eps, _inference_dtype(x) or x.dtype)[0]
        if z is not None:
            return gpu.gated_rms_norm(x, z, weight, eps, size)
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        return blocked.norm(x, z, weight.to(dtype), eps, size, dtype)
    wide, gate, scale = x.to(dtype), None if z is None else z.to(dtype), weight.to(dtype)
    return reference.norm(wide, gate, scale, eps, size).to(x.dtype)


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Autocast's dtype on this tensor's device, where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _inference_dtype(x: Tensor) -> torch.dtype | None:
    """As `_autocast_dtype` where no gradients are recorded, else None."""
    return None if torch.is_grad_enabled() else _autocast_dtype(x)
