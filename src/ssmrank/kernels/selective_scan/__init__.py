"""Mamba-1's selective scan over packed sequences (Gu & Dao 2023, section 3)."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation
from ssmrank.kernels.packing import chosen_states, needs_gradient, written
from ssmrank.kernels.selective_scan import reference
from ssmrank.kernels.selective_scan.inputs import ScanInputs

__all__ = ["ScanInputs", "packed_selective_scan"]


@overload
def packed_selective_scan(
    inputs: ScanInputs,
    cu_seqlens: Tensor,
    *,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    return_final_states: Literal[False] = False,
) -> Tensor: ...


@overload
def packed_selective_scan(
    inputs: ScanInputs,
    cu_seqlens: Tensor,
    *,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    return_final_states: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def packed_selective_scan(
    inputs: ScanInputs,
    cu_seqlens: Tensor,
    *,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t; y_t = (C_t · h_t + D u_t) silu(z_t), with Δ = softplus(delta + bias).

    Args:
        inputs: u, delta, A, B, C, and D, z and delta_bias, which may be None.
        cu_seqlens: int64 `[S + 1]`, where sequences start, and T; empty sequences are allowed.
        initial_states: `[S, D, N]`, or None for zeros.
        initial_index: int64 `[S]`, for each sequence the row of `initial_states` (then of any number of rows) that it
            begins with, -1 for zeros. None: row s for sequence s.
        out: contiguous `[T, D]` in u's dtype that y is written to and that is returned; without gradients.
        return_final_states: also return each sequence's last state.

    Returns:
        y `[T, D]` in u's dtype, with final states `[S, D, N]` (float32 or float64) where asked for. The state is held
        in float32, whatever the inputs, or in float64 if u is. Differentiable in every floating tensor.
    """
    u = inputs.u
    implementation = dispatch.selective_scan(u)
    differentiable = needs_gradient(*inputs, initial_states)
    if initial_index is not None and (differentiable or implementation is Implementation.PLAIN):
        initial_states, initial_index = chosen_states(initial_states, initial_index), None
    if implementation is Implementation.GPU:
        from ssmrank.kernels.selective_scan import gpu

        y, states = gpu.selective_scan(
            *(inputs, cu_seqlens, initial_states, initial_index, out), need_final=return_final_states
        )
    else:
        if u.dtype != torch.float64:
            inputs, initial_states = inputs.single(), None if initial_states is None else initial_states.float()
        if implementation is Implementation.CPU:
            from ssmrank.kernels.selective_scan import cpu

            own = out if u.dtype == torch.float32 else None
            y, states = cpu.selective_scan(
                *(inputs, cu_seqlens, initial_states, initial_index, own), need_final=return_final_states
            )
        else:
            y, states = reference.selective_scan(inputs, cu_seqlens, initial_states)
    y = written(y.to(u.dtype), out)
    if not return_final_states:
        return y
    assert states is not None
    return y, states
