"""Mamba-2's mixer (state space duality) over packed sequences: Dao & Gu 2024, section 6."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ssmrank.kernels.packing import chosen_states, is_available, needs_gradient, sequence_index, written
from ssmrank.kernels.ssd.chunked import ssd_chunked


@overload
def packed_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    cu_seqlens: Tensor,
    *,
    chunk_size: int,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    longest: int | None = None,
    return_final_states: Literal[False] = False,
    seq_idx: Tensor | None = None,
) -> Tensor: ...


@overload
def packed_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    cu_seqlens: Tensor,
    *,
    chunk_size: int,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    longest: int | None = None,
    return_final_states: Literal[True],
    seq_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor]: ...


def packed_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    cu_seqlens: Tensor,
    *,
    chunk_size: int,
    initial_states: Tensor | None = None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    longest: int | None = None,
    return_final_states: bool = False,
    seq_idx: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_tᵀ; y_t = h_t C_t + D x_t, per head, with Δ = softplus(dt + bias).

    Args:
        x: `[T, H, P]` input of H heads, sequences laid end to end.
        dt: `[T, H]` step sizes before bias and softplus.
        A: `[H]` negative decay rates.
        B, C: `[T, G, N]`, each of the G groups shared by H / G heads.
        D, dt_bias: `[H]` or None.
        cu_seqlens: int64 `[S + 1]`, where sequences start, and T; empty sequences are allowed.
        chunk_size: tokens per chunk of the CUDA kernel. The result does not depend on it, and a CPU chooses its own.
        initial_states: `[S, H, P, N]`, or None for zeros.
        initial_index: int64 `[S]`, for each sequence the row of `initial_states` (then of any number of rows) that it
            begins with, -1 for zeros. None: row s for sequence s. Sequences of one row are fastest side by side.
        longest: tokens of the longest sequence, said where all sequences begin with some row and lie in the order of
            rows: a GPU takes short ones by a kernel of their own.
        out: contiguous `[T, H, P]` in x's dtype that y is written to and that is returned; without gradients.
        return_final_states: also return each sequence's last state.
        seq_idx: int32 `[T]`, the sequence of each token; worked out where the CUDA kernel needs it and it is None.

    Returns:
        y `[T, H, P]` in x's dtype, with final states `[S, H, P, N]` (float32 or float64; of a GPU that writes to `out`
        x's dtype) where asked for. Computed in float32, or float64 if x is. Differentiable in every floating tensor.
    """
    differentiable = needs_gradient(x, dt, A, B, C, D, dt_bias, initial_states)
    indexed = not differentiable and x.dtype != torch.float64
    if initial_index is not None and not (indexed and (x.device.type == "cpu" or _triton_runs(x, B))):
        initial_states, initial_index = chosen_states(initial_states, initial_index), None
    if _triton_runs(x, B):
        from ssmrank.kernels.ssd import gpu as triton_ssd

        y, final = triton_ssd.ssd(
            *(x, dt, A, B, C, D, dt_bias, cu_seqlens, initial_states, initial_index, out),
            need_final=return_final_states,
            longest=longest,
        )
        return y if final is None else (y, final)
    if x.is_cuda and initial_states is None and not return_final_states and is_available("mamba_ssm"):
        return written(_cuda(x, dt, A, B, C, D, dt_bias, cu_seqlens, chunk_size, seq_idx), out)
    dtype = torch.promote_types(x.dtype, torch.float32)
    tensors: list[Any] = [None if t is None else t.to(dtype) for t in (x, dt, A, B, C, D, dt_bias, initial_states)]
    own = out if out is not None and out.dtype == dtype else None
    y, states = _portable(cu_seqlens, chunk_size, return_final_states, initial_index, own, *tensors)
    y = written(y.to(x.dtype), out)
    if not return_final_states:
        return y
    assert states is not None
    return y, states


def _triton_runs(x: Tensor, B: Tensor) -> bool:
    if not x.is_cuda or x.dtype == torch.float64 or not is_available("triton"):
        return False
    from ssmrank.kernels.ssd import gpu as triton_ssd

    return triton_ssd.supports(x.shape[2], B.shape[2])


def _portable(
    cu_seqlens: Tensor,
    chunk_size: int,
    need_final: bool,
    initial_index: Tensor | None,
    out: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    initial_states: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    steps = torch.nn.functional.softplus(dt if dt_bias is None else dt + dt_bias)
    if x.device.type == "cpu" and x.dtype == torch.float32:
        from ssmrank.kernels.ssd import cpu as ssd_numba

        if ssd_numba.supports(x.shape[2], B.shape[2]):
            return ssd_numba.ssd(
                *(x, steps, A, B, C, D, cu_seqlens, initial_states, initial_index, out), need_final=need_final
            )
        chunk_size = 64
    if initial_index is not None:
        initial_states = chosen_states(initial_states, initial_index)
    with torch.autocast(x.device.type, enabled=False):
        return ssd_chunked(
            *(x, steps, A, B, C, D, cu_seqlens, initial_states), chunk_size=chunk_size, need_final=need_final
        )


def _cuda(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    cu_seqlens: Tensor,
    chunk_size: int,
    seq_idx: Tensor | None,
) -> Tensor:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    if seq_idx is None:
        seq_idx = sequence_index(cu_seqlens.to(x.device), x.shape[0])
    y: Tensor = mamba_chunk_scan_combined(
        x[None],
        dt[None],
        A,
        B[None],
        C[None],
        chunk_size,
        D=D,
        dt_bias=dt_bias,
        dt_softplus=True,
        seq_idx=seq_idx[None],
    )
    return y[0]
