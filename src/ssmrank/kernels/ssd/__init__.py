"""Mamba-2's mixer (state space duality) over packed sequences: Dao & Gu 2024, section 6."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation
from ssmrank.kernels.packing import chosen_states, needs_gradient, sequence_index, written
from ssmrank.kernels.ssd import reference
from ssmrank.kernels.ssd.inputs import SSDInputs, WeighedInputs

__all__ = ["SSDInputs", "WeighedInputs", "packed_ssd"]


@overload
def packed_ssd(
    inputs: SSDInputs | WeighedInputs,
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
    inputs: SSDInputs | WeighedInputs,
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
    inputs: SSDInputs | WeighedInputs,
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
        inputs: x, dt, A, B, C, and D and dt_bias, which may be None; or weights and decays of each token instead of
            dt, A, D and dt_bias (`WeighedInputs`).
        cu_seqlens: int64 `[S + 1]`, where sequences start, and T; empty sequences are allowed.
        chunk_size: tokens per chunk of mamba_ssm's kernel. The result does not depend on it, and a CPU chooses its own.
        initial_states: `[S, H, P, N]`, or None for zeros.
        initial_index: int64 `[S]`, for each sequence the row of `initial_states` (then of any number of rows) that it
            begins with, -1 for zeros. None: row s for sequence s. Sequences of one row are fastest side by side.
        longest: tokens of the longest sequence. Give it where each sequence begins with some row and sequences are in
            the order of rows; a GPU then has a kernel for short ones.
        out: contiguous `[T, H, P]` in x's dtype that y is written to and that is returned; without gradients.
        return_final_states: also return each sequence's last state.
        seq_idx: int32 `[T]`, the sequence of each token; computed where the CUDA kernel needs it and it is None.

    Returns:
        y `[T, H, P]` in x's dtype, with final states `[S, H, P, N]` where asked for: in float32 or float64, or in x's
        dtype on a GPU that writes to `out`. Computed in float32, or float64 if x is. Differentiable in every floating
        tensor.
    """
    x = inputs.x
    stateless = initial_states is None and not return_final_states
    implementation = dispatch.ssd(x, inputs.B, stateless=stateless)
    sizes = dispatch.ssd_sizes(x, inputs.B)
    if implementation is Implementation.PLAIN and sizes is not None:
        from ssmrank.kernels.ssd import fitted

        options: dict[str, Any] = {"initial_states": initial_states, "initial_index": initial_index}
        options |= {"out": out, "return_final_states": return_final_states}
        return fitted.ssd(
            packed_ssd, inputs.stepped(), cu_seqlens, sizes, chunk_size=chunk_size, longest=longest, **options
        )
    takes_index = implementation in (Implementation.GPU, Implementation.CPU)
    if initial_index is not None and not (takes_index and not needs_gradient(*inputs, initial_states)):
        initial_states, initial_index = chosen_states(initial_states, initial_index), None
    if implementation is Implementation.GPU:
        from ssmrank.kernels.ssd import gpu

        y, states = gpu.ssd(
            *(inputs.stepped(), cu_seqlens, initial_states, initial_index, out),
            need_final=return_final_states,
            longest=longest,
        )
    elif implementation is Implementation.LIBRARY:
        y, states = written(_mamba_ssm(inputs.stepped(), cu_seqlens, chunk_size, seq_idx), out), None
    else:
        dtype = torch.promote_types(x.dtype, torch.float32)
        wide, initial_states = inputs.to(dtype), None if initial_states is None else initial_states.to(dtype)
        if implementation is Implementation.CPU:
            from ssmrank.kernels.ssd import cpu

            own = out if out is not None and out.dtype == dtype else None
            y, states = cpu.ssd(*(wide, cu_seqlens, initial_states, initial_index, own), need_final=return_final_states)
        elif dispatch.is_batch_invariant():  # products over chunks depend on how many there are
            y, states = reference.ssd(wide, cu_seqlens, initial_states)
        else:
            from ssmrank.kernels.ssd.chunked import ssd_chunked

            if wide.x.device.type == "cpu" and dtype == torch.float32:
                chunk_size = 64
            y, states = ssd_chunked(
                wide, cu_seqlens, initial_states, chunk_size=chunk_size, need_final=return_final_states
            )
        y = written(y.to(x.dtype), out)
    if not return_final_states:
        return y
    assert states is not None
    return y, states


def _mamba_ssm(inputs: SSDInputs, cu_seqlens: Tensor, chunk_size: int, seq_idx: Tensor | None) -> Tensor:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    x, dt, A, B, C, D, dt_bias = inputs
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
