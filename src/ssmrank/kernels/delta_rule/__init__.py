"""The gated delta rule over packed sequences: Yang, Kautz & Hatamizadeh 2024, "Gated Delta Networks"."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.delta_rule import reference
from ssmrank.kernels.delta_rule.inputs import DeltaInputs
from ssmrank.kernels.dispatch import Implementation
from ssmrank.kernels.packing import chosen_states, needs_gradient, written

__all__ = ["DeltaInputs", "packed_delta_rule"]

CHUNK_SIZE = 64


@overload
def packed_delta_rule(
    inputs: DeltaInputs,
    cu_seqlens: Tensor,
    *,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    return_final_states: Literal[False] = False,
) -> Tensor: ...


@overload
def packed_delta_rule(
    inputs: DeltaInputs,
    cu_seqlens: Tensor,
    *,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    return_final_states: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def packed_delta_rule(
    inputs: DeltaInputs,
    cu_seqlens: Tensor,
    *,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """S = exp(g_t) S_{t-1}; S_t = S + β_t k_t (v_t - Sᵀ k_t)ᵀ; y_t = S_tᵀ q_t, per head.

    Args:
        inputs: v, q, k, g and β.
        cu_seqlens: int64 `[S + 1]`, where sequences start, and T; empty sequences are allowed.
        initial_states: `[S, H, N, P]`, or None for zeros.
        initial_index: int64 `[S]`, for each sequence the row of `initial_states` (then of any number of rows) that it
            begins with, -1 for zeros. None: row s for sequence s.
        out: `[T, H, P]` in v's dtype that y is written to and that is returned; without gradients.
        return_final_states: also return each sequence's last state.

    Returns:
        y `[T, H, P]` in v's dtype, with final states `[S, H, N, P]` in float32 or float64 where asked for. Computed in
        float32, or float64 if v is; products of a GPU in v's dtype. Differentiable in every floating tensor.
    """
    if initial_index is not None:
        initial_states = chosen_states(initial_states, initial_index)
    gradients = needs_gradient(*inputs, initial_states)
    if dispatch.delta_rule(inputs.values, inputs.keys, gradients=gradients) is Implementation.LIBRARY:
        from ssmrank.kernels.delta_rule import library

        y, states = library.delta_rule(inputs, cu_seqlens, initial_states, need_final=return_final_states)
    else:
        y, states = _in_pytorch(inputs, cu_seqlens, initial_states, return_final_states)
    y = written(y.to(inputs.values.dtype), out)
    if not return_final_states:
        return y
    assert states is not None
    return y, states


def _in_pytorch(
    inputs: DeltaInputs, cu_seqlens: Tensor, initial_states: Tensor | None, need_final: bool
) -> tuple[Tensor, Tensor | None]:
    dtype = torch.promote_types(inputs.values.dtype, torch.float32)
    wide, before = inputs.to(dtype), None if initial_states is None else initial_states.to(dtype)
    if dispatch.is_batch_invariant():  # products over chunks depend on how many there are
        return reference.delta_rule(wide, cu_seqlens, before)
    from ssmrank.kernels.delta_rule.chunked import delta_rule_chunked

    return delta_rule_chunked(wide, cu_seqlens, before, chunk_size=CHUNK_SIZE, need_final=need_final)
