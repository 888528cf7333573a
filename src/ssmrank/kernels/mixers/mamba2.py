"""Mamba-2's mixer after its input projection as one function with its own backward pass, on a GPU, in Triton.

Its parts are the kernels of `causal_conv`, `ssd` and `norms`. Together, each of their backward passes writes its part
of the projection's gradient in place, so nothing is concatenated. Tensors that are cheap to recompute are not kept for
the backward pass. One kernel sums the gradients of all small parameters.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels.causal_conv import gpu as conv
from ssmrank.kernels.float8.reference import Rows
from ssmrank.kernels.gpu.rows import dense
from ssmrank.kernels.gpu.sums import add_columns
from ssmrank.kernels.norms import gpu as norms
from ssmrank.kernels.norms.reference import Unscaled
from ssmrank.kernels.ssd import gpu_backward, gpu_forward
from ssmrank.kernels.ssd.inputs import SSDInputs

RECOMPUTE = True
"""Whether the backward pass recomputes the convolution and the norm, which saves a third of what a layer keeps."""


class Sizes(NamedTuple):
    """Of a mixer: heads of some width, groups with some states, and the norm's epsilon."""

    heads: int
    width: int
    groups: int
    states: int
    eps: float


class Parameters(NamedTuple):
    """Of a mixer after its input projection.

    filters `[H P + 2 G N, W]` of the convolution, filter_bias `[H P + 2 G N]` or None; A_log, D, dt_bias `[H]`;
    norm_weight `[H P]`.
    """

    filters: Tensor
    filter_bias: Tensor | None
    A_log: Tensor
    D: Tensor
    dt_bias: Tensor
    norm_weight: Tensor

    def ready(self) -> Parameters:
        """The same as kernels read them."""
        filters, filter_bias, *of_heads, norm_weight = self
        bias = None if filter_bias is None else filter_bias.contiguous()
        rates, skip, shift = (vector.float().contiguous() for vector in of_heads)
        return Parameters(filters.contiguous(), bias, rates, skip, shift, norm_weight.contiguous())


def mixer(
    projected: Tensor, parameters: Parameters, out_weight: Tensor | None, cu_seqlens: Tensor, sizes: Sizes
) -> Tensor:
    """The mixer after its input projection: convolution and SiLU, state space model, gated norm, output projection.

    Args:
        projected: `[T, 2 H P + 2 G N + H]`: gate, x, B, C and step sizes of each token.
        parameters: of the mixer.
        out_weight: `[hidden, H P]` in the dtype of `projected`, or None.
        cu_seqlens: int64 `[S + 1]`.
        sizes: of the mixer.

    Returns:
        `[T, hidden]`; `[T, H P]` without the projection. In the dtype of `projected`, differentiable in every tensor.
    """
    starts = cu_seqlens.to(projected.device, torch.int64).contiguous()
    output: Tensor = _Mixer.apply(dense(projected), *parameters.ready(), out_weight, starts, sizes)
    return output


def mixer_float8(projected: Tensor, parameters: Parameters, cu_seqlens: Tensor, sizes: Sizes) -> Rows:
    """As `mixer` with one group, without gradients and the output projection, for which the rows are rounded."""
    starts, own, projected = cu_seqlens.to(projected.device, torch.int64), parameters.ready(), dense(projected)
    y, _ = _scanned(projected, own, starts.contiguous(), sizes)
    return norms.gated_rms_norm_float8(y, _split(projected, sizes)[0], own.norm_weight, sizes.eps)


def mixer_gated(
    projected: Tensor, parameters: Parameters, out_weight: Tensor, cu_seqlens: Tensor, sizes: Sizes
) -> Unscaled:
    """As `mixer`, where `dispatch.mamba2_gates` and without gradients, up to the norm's factors of rows.

    The norm's weight must be part of `out_weight`'s columns; that in `parameters` is not read.
    """
    y, squares = _gated(projected, parameters, cu_seqlens, sizes)
    return Unscaled(y @ out_weight.T, squares, y.shape[1], sizes.eps)


def mixer_gated_float8(projected: Tensor, parameters: Parameters, cu_seqlens: Tensor, sizes: Sizes) -> Rows:
    """As `mixer_float8`, where `dispatch.mamba2_gates`."""
    y, _ = _gated(projected, parameters, cu_seqlens, sizes)
    return norms.add_rms_norm_float8(y, None, parameters.norm_weight, sizes.eps)[0]


class _Mixer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, *arguments: Any) -> Tensor:
        *tensors, out_weight, starts, sizes = arguments
        own = Parameters(*tensors)
        y, convolved = _scanned(projected, own, starts, sizes)
        z, size = _split(projected, sizes)[0], y.shape[1] // sizes.groups
        normed, scales = norms.gated_forward(y, z, own.norm_weight, sizes.eps, size)
        kept = (None, None) if RECOMPUTE else (convolved, normed if out_weight is not None else None)
        ctx.save_for_backward(projected, *own, out_weight, starts, y, scales, *kept)
        ctx.sizes = sizes
        return normed if out_weight is None else normed @ out_weight.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        projected, *saved = ctx.saved_tensors
        count, sizes = len(Parameters._fields), ctx.sizes
        own, (out_weight, starts, y, scales, convolved, normed) = Parameters(*saved[:count]), saved[count:]
        z, xbc, dt = _split(projected, sizes)
        grad_projected = torch.empty_like(projected)
        grad_z, grad_xbc, grad_dt = _split(grad_projected, sizes)
        grad, grad_out_weight = grad.contiguous(), None
        grad_normed = grad if out_weight is None else grad @ out_weight
        again = torch.empty_like(y) if out_weight is not None and normed is None else None
        grad_y = torch.empty_like(y)
        norm_sums = norms.gated_backward(y, z, own.norm_weight, scales, grad_normed, grad_y, grad_z, again)
        if out_weight is not None:
            grad_out_weight = grad.T @ (normed if again is None else again)
        del grad_normed, again
        if convolved is None:
            convolved = conv.forward(xbc, own.filters, own.filter_bias, starts, True)
        x, b, c = _parts(convolved, sizes)
        grad_convolved = torch.empty_like(convolved)
        grad_x, grad_b, grad_c = _parts(grad_convolved, sizes)
        ssd_sums = own.A_log.new_zeros(1, 3 * sizes.heads)
        if len(starts) > 1:
            inputs = SSDInputs(x, dt, own.A_log, b, c, own.D, own.dt_bias)
            out = grad_x, grad_dt, grad_b, grad_c
            ssd_sums, _ = gpu_backward.run(inputs, starts, None, grad_y.view(x.shape), None, out, log=True)
        conv_sums = conv.backward(xbc, own.filters, own.filter_bias, starts, True, grad_convolved, grad_xbc)
        of_conv, of_norm, of_ssd = add_columns(conv_sums, norm_sums, ssd_sums)
        return (
            grad_projected,
            *conv.parameter_gradients(of_conv, own.filters, own.filter_bias),
            *of_ssd.split(sizes.heads),
            of_norm.to(own.norm_weight.dtype),
            grad_out_weight,
            *(None, None),
        )


def _scanned(projected: Tensor, own: Parameters, starts: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """The state space model's output `[T, H P]`, and x, B and C after the convolution."""
    _, xbc, dt = _split(projected, sizes)
    convolved = conv.forward(xbc, own.filters, own.filter_bias, starts, True)
    x, b, c = _parts(convolved, sizes)
    y = x.new_empty(x.shape)
    gpu_forward.run(SSDInputs(x, dt, own.A_log, b, c, own.D, own.dt_bias), starts, y=y, log=True)
    return y.flatten(1), convolved


def _gated(projected: Tensor, parameters: Parameters, cu_seqlens: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """The state space model's output times the gate, `[T, H P]`, and its heads' sums of squares, float32 `[H, T]`."""
    from ssmrank.kernels.ssd import gpu_gated

    starts, own = cu_seqlens.to(projected.device, torch.int64).contiguous(), parameters.ready()
    z, xbc, dt = _split(projected, sizes)
    inner, filters, bias = sizes.heads * sizes.width, own.filters, own.filter_bias
    # The scan computes the convolution of x itself; all heads share that of B and C.
    of_b_and_c = conv.forward(xbc[:, inner:], filters[inner:], None if bias is None else bias[inner:], starts, True)
    b, c = (part.unflatten(1, (sizes.groups, sizes.states)) for part in of_b_and_c.chunk(2, dim=1))
    x, gate = (part.unflatten(1, (sizes.heads, sizes.width)) for part in (xbc[:, :inner], z))
    y, squares = x.new_empty(x.shape), x.new_empty(sizes.heads, len(x), dtype=torch.float32)
    inputs = SSDInputs(x, dt, own.A_log, b, c, own.D, own.dt_bias)
    gpu_gated.run(inputs, gate, filters, bias, starts, y=y, squares=squares, log=True)
    return y.flatten(1), squares


def _split(projected: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
    """The gate, the input of the convolution, and the step sizes."""
    inner = sizes.heads * sizes.width
    return projected.split([inner, inner + 2 * sizes.groups * sizes.states, sizes.heads], dim=1)


def _parts(convolved: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """x `[T, H, P]`, and B and C `[T, G, N]`."""
    inner, other = sizes.heads * sizes.width, sizes.groups * sizes.states
    x, b, c = convolved.split([inner, other, other], dim=1)
    b, c = (part.unflatten(1, (sizes.groups, sizes.states)) for part in (b, c))
    return x.unflatten(1, (sizes.heads, sizes.width)), b, c
