"""Mamba-1's mixer after its input projection as one function with its own backward pass, on a GPU, in Triton.

Its parts are the kernels of `causal_conv` and `selective_scan`. Together, their backward passes write both halves of
the projection's gradient in place, so nothing is concatenated, and one kernel sums the gradients of all small
parameters. For the backward pass a layer keeps each token's input projection, the few step sizes before their
projection, B and C, and every sixteenth state. Convolution and step sizes are recomputed by two cheap kernels, and the
scan's backward kernel recomputes the gated output.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels.causal_conv import gpu as conv
from ssmrank.kernels.gpu.sums import add_columns
from ssmrank.kernels.packing import needs_gradient
from ssmrank.kernels.selective_scan import gpu as scan
from ssmrank.kernels.selective_scan.inputs import ScanInputs

ROUND_STATES = True
"""Whether states are kept for the backward pass in the projection's dtype, as other tensors are, or in float32.

With 2048 channels and 16 states, bf16 states take 4 of the 14 KB that are kept for a token; float32 states take 8 KB.
"""


class _Parameters(NamedTuple):
    filters: Tensor
    filter_bias: Tensor | None
    x_weight: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    out_weight: Tensor | None


def mixer(
    projected: Tensor,
    filters: Tensor,
    filter_bias: Tensor | None,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out_weight: Tensor | None,
    cu_seqlens: Tensor,
) -> Tensor:
    """The mixer after its input projection: convolution and SiLU, projections, scan and gate, output projection.

    Args:
        projected: `[T, 2 C]`: x and gate of each token.
        filters: `[C, W]`, of the convolution.
        filter_bias: `[C]` or None.
        x_weight: `[R + 2 N, C]`, which makes step sizes of rank R, B and C.
        dt_weight: `[C, R]`.
        dt_bias, D: `[C]`.
        A_log: `[C, N]`.
        out_weight: `[hidden, C]`, or None. The three weights in the dtype of `projected`.
        cu_seqlens: int64 `[S + 1]`.

    Returns:
        `[T, hidden]`; `[T, C]` without the projection. In the dtype of `projected`, differentiable in every tensor.
    """
    starts = cu_seqlens.to(projected.device, torch.int64).contiguous()
    own = _Parameters(
        filters.contiguous(),
        None if filter_bias is None else filter_bias.contiguous(),
        x_weight,
        dt_weight,
        dt_bias.float().contiguous(),
        A_log.float(),
        D.float().contiguous(),
        out_weight,
    )
    keep = needs_gradient(projected, *own)
    output: Tensor = _Mixer.apply(projected.contiguous(), *own, starts, keep)
    return output


class _Mixer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, *arguments: Any) -> Tensor:
        *tensors, starts, keep = arguments
        own = _Parameters(*tensors)
        x, z = projected.chunk(2, dim=1)
        rates = own.A_log.exp().neg().t().contiguous()
        u = conv.forward(x, own.filters, own.filter_bias, starts, True)
        narrow = u @ own.x_weight.T
        delta, b, c = _steps(narrow, own)
        inputs = ScanInputs(u, delta, rates, b, c, own.D, z, own.dt_bias)
        y, _, kept = scan.forward(inputs, None, starts, False, keep=keep, rounded=ROUND_STATES)
        if keep:
            ctx.save_for_backward(projected, *own, starts, rates, narrow, *kept)
        return y if own.out_weight is None else y @ own.out_weight.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        count = len(_Parameters._fields)
        projected, *saved = ctx.saved_tensors
        own, (starts, rates, narrow, *kept) = _Parameters(*saved[:count]), saved[count:]
        x, z = projected.chunk(2, dim=1)
        grad_projected = torch.empty_like(projected)
        grad_x, grad_z = grad_projected.chunk(2, dim=1)
        grad = grad.contiguous()
        u = conv.forward(x, own.filters, own.filter_bias, starts, True)
        delta, b, c = _steps(narrow, own)
        grad_u, grad_narrow = torch.empty_like(u), torch.empty_like(narrow)
        grad_step, grad_b, grad_c = _parts(grad_narrow, own)
        # The scan overwrites the output's gradient with the output, and step sizes with their gradients, because these
        # tensors are large in a large batch.
        grad_y = grad if own.out_weight is None else grad @ own.out_weight
        y = None if own.out_weight is None else grad_y
        scan_sums = scan.backward(
            ScanInputs(u, delta, rates, b, c, own.D, z, own.dt_bias), None, starts, scan.Kept(*kept), grad_y, None,
            None, scan.Gradients(grad_u, delta, grad_b, grad_c, grad_z, y),
        )  # fmt: skip
        grad_out_weight, grad_delta = None if y is None else grad.T @ y, delta
        del grad_y, y
        grad_dt_weight = grad_delta.T @ _parts(narrow, own)[0]
        torch.mm(grad_delta, own.dt_weight, out=grad_step)
        del grad_delta, delta
        grad_x_weight = grad_narrow.T @ u
        grad_u.addmm_(grad_narrow, own.x_weight)  # x_proj's part, added to the scan's own
        conv_sums = conv.backward(x, own.filters, own.filter_bias, starts, True, grad_u, grad_x)
        of_conv, of_scan = add_columns(conv_sums, scan_sums)
        grad_rates, grad_D, grad_dt_bias = of_scan.split([rates.numel(), len(own.D), len(own.D)])
        return (
            grad_projected,
            *conv.parameter_gradients(of_conv, own.filters, own.filter_bias),
            grad_x_weight,
            grad_dt_weight,
            grad_dt_bias,
            (grad_rates.view(rates.shape) * rates).t(),  # rates are -exp(A_log), and so is their derivative
            grad_D,
            grad_out_weight,
            *(None, None),
        )


def _parts(narrow: Tensor, own: _Parameters) -> tuple[Tensor, ...]:
    """Step sizes `[T, R]`, and B and C `[T, N]`."""
    states = own.A_log.shape[1]
    return narrow.split([own.dt_weight.shape[1], states, states], dim=1)


def _steps(narrow: Tensor, own: _Parameters) -> tuple[Tensor, Tensor, Tensor]:
    """Step sizes of all channels `[T, C]`, before bias and softplus, and B and C `[T, N]`."""
    step, b, c = _parts(narrow, own)
    return step @ own.dt_weight.T, b, c
