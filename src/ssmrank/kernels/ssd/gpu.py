"""Mamba-2's mixer over packed sequences on a GPU, in Triton, as a differentiable function.

A sequence is cut into chunks of Q tokens. Within a chunk the mixer is masked attention without softmax, y = (C Bᵀ ∘
decays) Δx; between chunks each head passes on its state `[N, P]` (Dao & Gu 2024, section 6). A small kernel first sums
the decays within each chunk. Then a program processes one head of one sequence, chunk after chunk. The state stays in
registers while the next chunk's tiles are copied to shared memory, and only y is written. A sequence of one chunk, as
most passages are, needs no state at all. Since Hopper, a unit of the GPU copies these tiles. That saves the registers
and instructions for addresses, and a third of the time.

Matrix products take operands in the inputs' dtype (float32: without TF32) and sum in float32. Nothing waits for the
device, launches depend on shapes alone, and nothing is tuned at run time: a CUDA graph can hold it all, and the first
step is as fast as the next. Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels import dispatch
from ssmrank.kernels.gpu.rows import dense
from ssmrank.kernels.gpu.sums import add_columns
from ssmrank.kernels.ssd import gpu_backward, gpu_forward, gpu_suffixes
from ssmrank.kernels.ssd.gpu_tiles import head_major
from ssmrank.kernels.ssd.inputs import SSDInputs


def ssd(
    inputs: SSDInputs,
    cu_seqlens: Tensor,
    initial_states: Tensor | None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    *,
    need_final: bool,
    longest: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """See `packed_ssd`; x, B, C in one of bfloat16, float16 and float32; y in x's dtype, final states in float32.

    Not differentiable with an index or into `out`. Final states are then in x's dtype, to which the matmuls round them
    in any case.
    """
    x, dt, B, C = map(dense, (inputs.x, inputs.dt, inputs.B, inputs.C))
    x, B, C = (head_major(tensor) for tensor in (x, B, C))
    A = inputs.A.float().contiguous()
    D, bias = (None if vector is None else vector.float().contiguous() for vector in (inputs.D, inputs.dt_bias))
    initial = None if initial_states is None else initial_states.contiguous()
    starts = cu_seqlens.to(x.device, torch.int64).contiguous()
    ready = SSDInputs(x, dt, A, B.to(x.dtype), C.to(x.dtype), D, bias)
    if initial_index is None and out is None:
        y, final = _Ssd.apply(*ready, None if initial is None else initial.float(), starts, need_final)
        return y, final
    y, final = _outputs(x, B, starts, out, x.dtype if need_final else None)
    index = None if initial_index is None else initial_index.contiguous()
    if initial is not None and index is not None and not need_final and longest is not None:
        # A tile of suffixes holds several, so what a row's sums are grouped by depends on its neighbours.
        if longest <= gpu_suffixes.TILE and not dispatch.is_batch_invariant():
            gpu_suffixes.run(ready, initial, starts, index, y)
            return y, None
    gpu_forward.run(ready, starts, initial, index, y=y, final=final)
    return y, final


def _outputs(
    x: Tensor, B: Tensor, starts: Tensor, out: Tensor | None, final_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor | None]:
    shape = (len(starts) - 1, *x.shape[1:], B.shape[2])
    final = None if final_dtype is None else x.new_empty(shape, dtype=final_dtype)
    return x.new_empty(x.shape) if out is None else out, final


class _Ssd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        *tensors, initial, starts, need_final = arguments
        inputs = SSDInputs(*tensors)
        y, final = _outputs(inputs.x, inputs.B, starts, None, torch.float32 if need_final else None)
        gpu_forward.run(inputs, starts, initial, y=y, final=final)
        ctx.save_for_backward(*arguments[:-1])
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, initial, starts = ctx.saved_tensors
        inputs = SSDInputs(*tensors)
        x, dt, A, B, _, D, bias = inputs
        grad_y = x.new_zeros(x.shape) if grad_y is None else grad_y.to(x.dtype)
        grad_y = head_major(dense(grad_y))
        grad_final = None if grad_final is None else grad_final.float().contiguous()
        out = x.new_empty(x.shape), dt.new_empty(dt.shape), x.new_empty(B.shape), x.new_empty(B.shape)
        sums, grad_initial = A.new_zeros(1, 3 * len(A)), None if initial is None else torch.empty_like(initial)
        if len(starts) > 1:
            sums, grad_initial = gpu_backward.run(inputs, starts, initial, grad_y, grad_final, out, log=False)
        grad_x, grad_dt, grad_B, grad_C = out
        grad_A, grad_D, grad_bias = add_columns(sums)[0].view(3, -1)
        return (
            *(grad_x, grad_dt, grad_A, grad_B, grad_C),
            None if D is None else grad_D,
            None if bias is None else grad_bias,
            *(grad_initial, None, None),
        )
