"""Mamba-3's recurrence over packed sequences: Lahoti et al. 2026, "Mamba-3", with one input and one output."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from ssmrank.kernels.packing import written
from ssmrank.kernels.trapezoid.inputs import Before, TrapezoidInputs

__all__ = ["Before", "TrapezoidInputs", "packed_trapezoid"]


@overload
def packed_trapezoid(
    inputs: TrapezoidInputs,
    cu_seqlens: Tensor,
    *,
    chunk_size: int = 64,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    before: Before | None = None,
    out: Tensor | None = None,
    longest: int | None = None,
    return_final_states: Literal[False] = False,
) -> Tensor: ...


@overload
def packed_trapezoid(
    inputs: TrapezoidInputs,
    cu_seqlens: Tensor,
    *,
    chunk_size: int = 64,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    before: Before | None = None,
    out: Tensor | None = None,
    longest: int | None = None,
    return_final_states: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def packed_trapezoid(
    inputs: TrapezoidInputs,
    cu_seqlens: Tensor,
    *,
    chunk_size: int = 64,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    before: Before | None = None,
    out: Tensor | None = None,
    longest: int | None = None,
    return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """h_t = exp(g_t) R_t (h_{t-1} + (1 - λ_t) Δ_t x_{t-1} B_{t-1}ᵀ) + λ_t Δ_t x_t B_tᵀ; y_t = h_t C_t + D x_t.

    Each head adds its biases to B and C. R_t turns pairs of states back by Δ_t times the token's rates.

    Args:
        inputs: x, steps, decays, shares, rates, B, C, their biases and D.
        cu_seqlens: int64 `[S + 1]`, where sequences start, and T; empty sequences are allowed.
        chunk_size: tokens per chunk where no kernel chooses them; the result does not depend on it.
        initial_states: `[S, H, P, N]`, or None for zeros.
        initial_index: int64 `[S]`, for each sequence the row of `initial_states` (then of any number of rows) that it
            begins with, -1 for zeros. None: row s for sequence s.
        before: the token before each sequence, if sequences continue others; None: there is none.
        longest: tokens of the longest sequence, see `packed_ssd`.
        out: `[T, H, P]` in x's dtype that y is written to and that is returned; without gradients.
        return_final_states: also return each sequence's last state.

    Returns:
        y `[T, H, P]` in x's dtype, with final states `[S, H, P, N]` where asked for. Computed in float32, or float64 if
        x is; products of a GPU are in x's dtype. Differentiable in every floating tensor.
    """
    from ssmrank.kernels.trapezoid import as_ssd

    dtype = inputs.x.dtype
    wide = torch.promote_types(dtype, torch.float32)
    given, before = inputs.to(wide), None if before is None else before.to(wide)
    if inputs.x.is_cuda:
        given = given._replace(x=inputs.x)
        before = None if before is None else before._replace(x=before.x.to(dtype))
    y, states = as_ssd.trapezoid(
        *(given, cu_seqlens, before),
        chunk_size=chunk_size,
        initial_states=initial_states,
        initial_index=initial_index,
        longest=longest,
        return_final_states=return_final_states,
    )
    y = written(y.to(dtype), out)
    if not return_final_states:
        return y
    assert states is not None
    return y, states
