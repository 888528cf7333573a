"""Root-mean-square and layer norms on a GPU, in Triton, forward and backward, one kernel each.

The norm of a residual stream adds the layer's update to the stream as it reads it. Its backward pass adds the stream's
two gradients and rounds the sum for the update. A layer's residual therefore needs no kernel besides its norm.
Mamba-2's norm applies its gate as it reads.

A program takes a whole row, or a group of its channels. In the backward pass it takes a strided set of rows and sums
the gradients of weight and bias over them in registers; the programs' sums are added last, in an order that depends on
shapes alone. Everything is computed in float32, whatever the tensors' dtypes. Nothing waits for the device, and the
launch depends on shapes alone, so a CUDA graph can hold it.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels.float8.gpu import new_rows, store_float8
from ssmrank.kernels.float8.reference import Rows
from ssmrank.kernels.gpu.rows import dense, launch
from ssmrank.kernels.gpu.sums import add_columns
from ssmrank.kernels.norms.reference import Unscaled

PROGRAMS = 1024
"""The most programs of a backward pass: several for each multiprocessor, so that some load while others sum."""


@triton.jit
def _load(base, row, stride, columns, mask):  # type: ignore[no-untyped-def]
    return tl.load(base + row * stride + columns, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _store(base, row, stride, columns, value, mask):  # type: ignore[no-untyped-def]
    tl.store(base + row * stride + columns, value.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


@triton.jit
def _sum_and_largest(sum1, largest1, sum2, largest2):  # type: ignore[no-untyped-def]
    return sum1 + sum2, tl.maximum(largest1, largest2)


@triton.jit
def _store_normed(  # type: ignore[no-untyped-def]
    y, scales, steps, row, place, channels, columns, value, weight, size, eps, mask
):
    """Stores the root-mean-square norm of values, and its scale at a place; with steps, the norm in 8-bit floats."""
    if steps is None:
        scale = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / size + eps)
        tl.store(scales + place, scale)
        _store(y, row, channels, columns, value * scale * weight, mask)
    else:
        weighted = value * weight
        squares, largest = tl.reduce((value * value, tl.abs(weighted)), 0, _sum_and_largest)
        scale = 1.0 / tl.sqrt(squares / size + eps)
        store_float8(y, steps, row, channels, columns, weighted, largest, scale, mask)


@triton.jit
def _add_forward(  # type: ignore[no-untyped-def]
    residual, update, weight, y, total, scales, steps, squares, residual_stride, update_stride, channels, eps,
    squares_stride, parts, update_size, update_eps, BLOCK: tl.constexpr, HAS_UPDATE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """PARTS: 0, or a power of 2 no less than the parts of a row's squares, if the update is still to be normed."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < channels
    value = _load(residual, row, residual_stride, columns, mask)
    if HAS_UPDATE:
        added = _load(update, row, update_stride, columns, mask)
        if PARTS:
            part = tl.arange(0, PARTS)
            own = tl.load(squares + part * squares_stride + row, mask=part < parts, other=0.0)
            added *= 1.0 / tl.sqrt(tl.sum(own, axis=0) / update_size + update_eps)
        # The norm is of the sum after rounding to its dtype, since the backward pass reads the rounded sum.
        rounded = (value + added).to(total.dtype.element_ty)
        tl.store(total + row * channels + columns, rounded, mask=mask)
        value = rounded.to(tl.float32)
    factor = _load(weight, 0, 0, columns, mask)
    _store_normed(y, scales, steps, row, row, channels, columns, value, factor, channels, eps, mask)


@triton.jit(do_not_specialize=["rows"])
def _add_backward(  # type: ignore[no-untyped-def]
    total, weight, scales, grad_y, grad_total, grad_residual, grad_update, grad_weight,
    total_stride, grad_y_stride, grad_total_stride, rows, channels,
    BLOCK: tl.constexpr, HAS_GRAD_TOTAL: tl.constexpr, HAS_GRAD_UPDATE: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < channels
    factor = _load(weight, 0, 0, columns, mask)
    weight_sum = tl.zeros([BLOCK], tl.float32)
    for row in range(first, rows, tl.num_programs(0)):
        scale = tl.load(scales + row)
        unit = _load(total, row, total_stride, columns, mask) * scale
        grad = _load(grad_y, row, grad_y_stride, columns, mask)
        weight_sum += grad * unit
        grad *= factor
        grad = scale * (grad - unit * (tl.sum(grad * unit, axis=0) / channels))
        if HAS_GRAD_TOTAL:
            grad += _load(grad_total, row, grad_total_stride, columns, mask)
        _store(grad_residual, row, channels, columns, grad, mask)
        if HAS_GRAD_UPDATE:
            _store(grad_update, row, channels, columns, grad, mask)
    tl.store(grad_weight + first * channels + columns, weight_sum, mask=mask)


@triton.jit
def _layer_forward(  # type: ignore[no-untyped-def]
    residual, update, weight, bias, y, total, means, scales, residual_stride, update_stride, channels, eps,
    BLOCK: tl.constexpr, HAS_UPDATE: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < channels
    value = _load(residual, row, residual_stride, columns, mask)
    if HAS_UPDATE:
        # As in _add_forward.
        rounded = (value + _load(update, row, update_stride, columns, mask)).to(total.dtype.element_ty)
        if KEEP:
            tl.store(total + row * channels + columns, rounded, mask=mask)
        value = rounded.to(tl.float32)
    mean = tl.sum(value, axis=0) / channels
    value = tl.where(mask, value - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / channels + eps)
    if KEEP:
        tl.store(means + row, mean)
        tl.store(scales + row, scale)
    value = value * scale * _load(weight, 0, 0, columns, mask) + _load(bias, 0, 0, columns, mask)
    _store(y, row, channels, columns, value, mask)


@triton.jit(do_not_specialize=["rows"])
def _layer_backward(  # type: ignore[no-untyped-def]
    total, weight, means, scales, grad_y, grad_residual, grad_update, grad_weight, grad_bias,
    total_stride, grad_y_stride, rows, channels, BLOCK: tl.constexpr, HAS_GRAD_UPDATE: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < channels
    factor = _load(weight, 0, 0, columns, mask)
    weight_sum = tl.zeros([BLOCK], tl.float32)
    bias_sum = tl.zeros([BLOCK], tl.float32)
    for row in range(first, rows, tl.num_programs(0)):
        mean, scale = tl.load(means + row), tl.load(scales + row)
        grad = _load(grad_y, row, grad_y_stride, columns, mask)
        # After the last channel the gradient is zero, whatever the unit.
        unit = (_load(total, row, total_stride, columns, mask) - mean) * scale
        weight_sum += grad * unit
        bias_sum += grad
        grad *= factor
        along, shift = tl.sum(grad * unit, axis=0) / channels, tl.sum(grad, axis=0) / channels
        grad = scale * (grad - shift - unit * along)
        _store(grad_residual, row, channels, columns, grad, mask)
        if HAS_GRAD_UPDATE:
            _store(grad_update, row, channels, columns, grad, mask)
    tl.store(grad_weight + first * channels + columns, weight_sum, mask=mask)
    tl.store(grad_bias + first * channels + columns, bias_sum, mask=mask)


@triton.jit
def _gated_forward(  # type: ignore[no-untyped-def]
    x, z, weight, y, scales, steps, x_stride, z_stride, channels, size, eps, BLOCK: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    inside = tl.arange(0, BLOCK)
    mask = inside < size
    columns = group * size + inside
    gate = _load(z, row, z_stride, columns, mask)
    value = _load(x, row, x_stride, columns, mask) * (gate * _sigmoid(gate))
    factor, place = _load(weight, 0, 0, columns, mask), row * tl.num_programs(1) + group
    _store_normed(y, scales, steps, row, place, channels, columns, value, factor, size, eps, mask)


@triton.jit(do_not_specialize=["rows"])
def _gated_backward(  # type: ignore[no-untyped-def]
    x, z, weight, scales, grad_y, y, grad_x, grad_z, grad_weight,
    x_stride, z_stride, grad_y_stride, grad_z_stride, rows, channels, size, BLOCK: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    first, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    inside = tl.arange(0, BLOCK)
    mask = inside < size
    columns = group * size + inside
    factor = _load(weight, 0, 0, columns, mask)
    weight_sum = tl.zeros([BLOCK], tl.float32)
    for row in range(first, rows, tl.num_programs(0)):
        scale = tl.load(scales + row * tl.num_programs(1) + group)
        gate = _load(z, row, z_stride, columns, mask)
        value = _load(x, row, x_stride, columns, mask)
        open_ = _sigmoid(gate)
        silu = gate * open_
        unit = value * silu * scale
        if AGAIN:
            _store(y, row, channels, columns, unit * factor, mask)
        grad = _load(grad_y, row, grad_y_stride, columns, mask)
        weight_sum += grad * unit
        grad *= factor
        grad = scale * (grad - unit * (tl.sum(grad * unit, axis=0) / size))
        _store(grad_x, row, channels, columns, grad * silu, mask)
        _store(grad_z, row, grad_z_stride, columns, grad * value * (open_ + silu * (1.0 - open_)), mask)
    tl.store(grad_weight + first * channels + columns, weight_sum, mask=mask)


def add_rms_norm(
    residual: Tensor, update: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `norms.add_rms_norm`; any leading dimensions, at most WIDEST channels, no float64."""
    shape = residual.shape
    normed, total = _AddNorm.apply(
        _rows(residual), None if update is None else _rows(update), weight.contiguous(), eps, dtype
    )
    return normed.view(shape), total.view(shape)


def add_rms_norm_unscaled(
    residual: Tensor, update: Unscaled, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As `add_rms_norm` of `[rows, C]` without gradients; the update's rows are still to be scaled."""
    y = residual.new_empty(residual.shape, dtype=dtype)
    scales = residual.new_empty(len(residual), dtype=torch.float32)
    return y, _add(_rows(residual), update, weight.contiguous(), eps, y, scales, None)


def add_layer_norm(
    residual: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """See `norms.add_layer_norm`; any leading dimensions, at most WIDEST channels, no float64."""
    y: Tensor = _LayerNorm.apply(
        _rows(residual), None if update is None else _rows(update), weight.contiguous(), bias.contiguous(), eps, dtype
    )
    return y.view(residual.shape)


def add_rms_norm_float8(residual: Tensor, update: Tensor | None, weight: Tensor, eps: float) -> tuple[Rows, Tensor]:
    """As `add_rms_norm` of `[rows, C]`, without gradients."""
    normed = new_rows(residual)
    return normed, _add(_rows(residual), update, weight.contiguous(), eps, normed.values, None, normed.scales)


def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float, size: int) -> Tensor:
    """See `norms.gated_rms_norm`; any leading dimensions, groups of at most WIDEST channels, no float64."""
    y: Tensor = _GatedNorm.apply(_rows(x), _rows(z), weight.contiguous(), eps, size)
    return y.view(x.shape)


def _rows(x: Tensor) -> Tensor:
    """`[rows, channels]`, the channels contiguous."""
    x = x.reshape(-1, x.shape[-1])
    return dense(x)


def _add(
    residual: Tensor,
    update: Tensor | Unscaled | None,
    weight: Tensor,
    eps: float,
    y: Tensor,
    scales: Tensor | None,
    steps: Tensor | None,
) -> Tensor:
    """Returns the sum; writes its norm to y, and the norm's scales or, for a norm in float8, its rows' scales."""
    (rows, channels), total = residual.shape, residual
    squares, of_update = None, (0, 0, 1, 0.0)
    if isinstance(update, Unscaled):
        squares, of_update = update.squares, (update.squares.stride(0), len(update.squares), update.size, update.eps)
        update = update.rows
    if update is not None:
        total = residual.new_empty(rows, channels, dtype=torch.promote_types(residual.dtype, update.dtype))
    if rows:
        _add_forward[(rows,)](
            residual, update, weight, y, total, scales, steps, squares,
            residual.stride(0), 0 if update is None else update.stride(0), channels, eps, *of_update,
            HAS_UPDATE=update is not None, PARTS=0 if squares is None else triton.next_power_of_2(len(squares)),
            **launch(channels),
        )  # fmt: skip
    return total


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, update: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        rows, channels = residual.shape
        y = residual.new_empty(rows, channels, dtype=dtype)
        scales = residual.new_empty(rows, dtype=torch.float32)
        total = _add(residual, update, weight, eps, y, scales, None)
        ctx.save_for_backward(total, weight, scales)
        ctx.dtypes = residual.dtype, None if update is None else update.dtype
        ctx.set_materialize_grads(False)
        return y, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_total: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, scales = ctx.saved_tensors
        residual_dtype, update_dtype = ctx.dtypes
        if grad_y is None:
            return (
                None if grad_total is None else grad_total.to(residual_dtype),
                None if grad_total is None or update_dtype is None else grad_total.to(update_dtype),
                *(None, None, None),
            )
        (rows, channels), programs = total.shape, min(len(total), PROGRAMS)
        grad_y, grad_total = _rows(grad_y), None if grad_total is None else _rows(grad_total)
        grad_residual = total.new_empty(rows, channels, dtype=residual_dtype)
        # Where the two have one dtype, they have one gradient.
        apart = update_dtype not in (None, residual_dtype)
        grad_update = total.new_empty(rows, channels, dtype=update_dtype) if apart else None
        grad_weight = scales.new_empty(programs, channels)
        if rows:
            _add_backward[(programs,)](
                total, weight, scales, grad_y, grad_total, grad_residual, grad_update, grad_weight,
                total.stride(0), grad_y.stride(0), 0 if grad_total is None else grad_total.stride(0), rows, channels,
                HAS_GRAD_TOTAL=grad_total is not None, HAS_GRAD_UPDATE=apart, **launch(channels),
            )  # fmt: skip
        if update_dtype == residual_dtype:
            grad_update = grad_residual
        return grad_residual, grad_update, add_columns(grad_weight)[0].to(weight.dtype), None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
    ) -> Tensor:
        rows, channels = residual.shape
        keep, total = any(ctx.needs_input_grad), residual
        if update is not None:
            total_dtype = torch.promote_types(residual.dtype, update.dtype)
            total = residual.new_empty(rows if keep else 0, channels, dtype=total_dtype)
        y = residual.new_empty(rows, channels, dtype=dtype)
        means, scales = residual.new_empty(2, rows, dtype=torch.float32)
        if rows:
            _layer_forward[(rows,)](
                residual, update, weight, bias, y, total, means, scales,
                residual.stride(0), 0 if update is None else update.stride(0), channels, eps,
                HAS_UPDATE=update is not None, KEEP=keep, **launch(channels),
            )  # fmt: skip
        ctx.save_for_backward(total, weight, bias, means, scales)
        ctx.dtypes = residual.dtype, None if update is None else update.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        total, weight, bias, means, scales = ctx.saved_tensors
        residual_dtype, update_dtype = ctx.dtypes
        (rows, channels), programs = total.shape, min(len(total), PROGRAMS)
        grad_y = _rows(grad_y)
        grad_residual = total.new_empty(rows, channels, dtype=residual_dtype)
        # Where the two have one dtype, they have one gradient.
        apart = update_dtype not in (None, residual_dtype)
        grad_update = total.new_empty(rows, channels, dtype=update_dtype) if apart else None
        grad_weight, grad_bias = scales.new_empty(2, programs, channels)
        if rows:
            _layer_backward[(programs,)](
                total, weight, means, scales, grad_y, grad_residual, grad_update, grad_weight, grad_bias,
                total.stride(0), grad_y.stride(0), rows, channels, HAS_GRAD_UPDATE=apart, **launch(channels),
            )  # fmt: skip
        if update_dtype == residual_dtype:
            grad_update = grad_residual
        weight_sum, bias_sum = grad_weight.sum(0).to(weight.dtype), grad_bias.sum(0).to(bias.dtype)
        return grad_residual, grad_update, weight_sum, bias_sum, None, None


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor, weight: Tensor, eps: float, size: int) -> Tensor:
        y, scales = gated_forward(x, z, weight, eps, size)
        ctx.save_for_backward(x, z, weight, scales)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, z, weight, scales = ctx.saved_tensors
        grad_x, grad_z = x.new_empty(x.shape), z.new_empty(z.shape)
        sums = gated_backward(x, z, weight, scales, _rows(grad_y), grad_x, grad_z)
        return grad_x, grad_z, add_columns(sums)[0].to(weight.dtype), None, None


def gated_forward(x: Tensor, z: Tensor, weight: Tensor, eps: float, size: int) -> tuple[Tensor, Tensor]:
    """The norm of x and z `[rows, C]`, whose rows may be strided, and its groups' scales, float32 `[rows, groups]`."""
    (rows, channels), groups = x.shape, x.shape[1] // size
    y = x.new_empty(rows, channels)
    scales = x.new_empty(rows, groups, dtype=torch.float32)
    if rows:
        _gated_forward[(rows, groups)](
            x, z, weight, y, scales, None, x.stride(0), z.stride(0), channels, size, eps, **launch(size)
        )
    return y, scales


def gated_rms_norm_float8(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Rows:
    """The norm of x and z `[rows, C]`, whose rows may be strided, over all channels."""
    (rows, channels), normed = x.shape, new_rows(x)
    if rows:
        _gated_forward[(rows, 1)](
            x, z, weight.contiguous(), normed.values, None, normed.scales,
            x.stride(0), z.stride(0), channels, channels, eps, **launch(channels, each=32),
        )  # fmt: skip
    return normed


def gated_backward(
    x: Tensor,
    z: Tensor,
    weight: Tensor,
    scales: Tensor,
    grad_y: Tensor,
    grad_x: Tensor,
    grad_z: Tensor,
    y: Tensor | None = None,
) -> Tensor:
    """Writes to grad_x (contiguous) and grad_z (rows may be strided), and the norm to y if it is given.

    Returns parts of the weight's gradient to be summed, float32 `[parts, C]`.
    """
    (rows, channels), groups = x.shape, scales.shape[1]
    programs, size = min(rows, max(PROGRAMS // groups, 1)), channels // groups
    sums = scales.new_empty(programs, channels)
    if rows:
        _gated_backward[(programs, groups)](
            x, z, weight, scales, grad_y, y, grad_x, grad_z, sums,
            x.stride(0), z.stride(0), grad_y.stride(0), grad_z.stride(0), rows, channels, size,
            AGAIN=y is not None, **launch(size),
        )  # fmt: skip
    return sums
