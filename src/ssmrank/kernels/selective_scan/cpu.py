"""The selective scan on a CPU as a differentiable function: numba's loops under torch's autograd."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels.packing import needs_gradient
from ssmrank.kernels.selective_scan import cpu_loops as loops
from ssmrank.kernels.selective_scan.inputs import ScanInputs
from ssmrank.kernels.simd import LANES
from ssmrank.kernels.simd.threads import run_tasks
from ssmrank.kernels.simd.vectors import LOG2_E

_BACKWARD_TASKS = 16
"""Tasks wanted of a backward pass. It is fixed, so that sums over tasks do not depend on the number of threads."""


def selective_scan(
    inputs: ScanInputs,
    cu_seqlens: Tensor,
    initial_states: Tensor | None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    *,
    need_final: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `packed_selective_scan`; every floating tensor is float32 on the CPU.

    Not differentiable with an index or into `out`.
    """
    differentiable = needs_gradient(*inputs, initial_states)
    padding = -inputs.u.shape[1] % LANES
    if padding:
        # Padding channels have no input, so their outputs and gradients are zero.
        u, delta, A, B, C, D, z, delta_bias = inputs
        u, delta, z, D, delta_bias = (_pad(x, padding) for x in (u, delta, z, D, delta_bias))  # type: ignore[assignment]
        A, initial_states = (_pad(x, padding, -2) for x in (A, initial_states))  # type: ignore[assignment]
        inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias)
    if differentiable:
        assert initial_index is None and out is None
        y, final = _SelectiveScan.apply(*inputs, initial_states, cu_seqlens, need_final)
    else:
        whole = out if not padding else None
        layout = _Layout(inputs, initial_states, cu_seqlens, need_final)
        y, final, _ = _forward(layout, checkpoints=False, index=initial_index, out=whole)
    if padding:
        y = y[:, :-padding]
        final = final if final is None else final[:, :-padding]
    return y, final


def _pad(x: Tensor | None, amount: int, dimension: int = -1) -> Tensor | None:
    if x is None:
        return None
    return torch.nn.functional.pad(x, (0, amount) if dimension == -1 else (0, 0, 0, amount))


class _Layout:
    """The tensors in the layout that the loops read, and their addresses."""

    def __init__(self, inputs: ScanInputs, initial_states: Tensor | None, cu_seqlens: Tensor, need_final: bool) -> None:
        u, delta, A, B, C, D, z, delta_bias = inputs
        self.tokens, self.channels = u.shape
        self.states = A.shape[1]
        self.u, self.delta, self.B, self.C = (_rows(x) for x in (u, delta, B, C))
        self.z = None if z is None else _rows(z)
        self.rates = (A.t() * LOG2_E).contiguous()
        self.D = u.new_zeros(self.channels) if D is None else D.contiguous()
        self.bias = u.new_zeros(self.channels) if delta_bias is None else delta_bias.contiguous()
        self.initial = None if initial_states is None else initial_states.transpose(1, 2).contiguous()
        self.starts = cu_seqlens.to("cpu", torch.int64).contiguous()
        self.sequences = len(self.starts) - 1
        self.need_final = need_final
        lengths = self.starts.diff()
        self.chunk_offsets = torch.zeros_like(self.starts)
        torch.cumsum((lengths + loops.CHUNK - 1) // loops.CHUNK, 0, out=self.chunk_offsets[1:])

    def addresses(self) -> tuple[int, ...]:
        """`starts` to `z_stride` of the loops' arguments."""
        return (
            self.starts.data_ptr(),
            *_place(self.u),
            *_place(self.delta),
            self.bias.data_ptr(),
            self.rates.data_ptr(),
            *_place(self.B),
            *_place(self.C),
            self.D.data_ptr(),
            *_place(self.z),
        )

    def tasks(self, at_once: int) -> tuple[list[tuple[int, int, int, int]], int]:
        """(first channel, vectors, first sequence, last sequence) of each task, and the number of sequence groups.

        Sequences are divided only where there are fewer blocks of channels than tasks wanted at once.
        """
        vectors = self.channels // LANES
        blocks = [(v * LANES, min(loops.BLOCK, vectors - v)) for v in range(0, vectors, loops.BLOCK)]
        groups = max(1, min(-(-at_once // len(blocks)), self.sequences))
        targets = torch.arange(1, groups) * self.tokens // groups
        cuts = [0, *torch.searchsorted(self.starts, targets).tolist(), self.sequences]
        spans = [(first, last) for first, last in itertools.pairwise(cuts) if first < last]
        return [(*block, *span) for span in spans for block in blocks], len(spans)


def _rows(x: Tensor) -> Tensor:
    """The tensor itself if its rows are contiguous, however far apart, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _place(x: Tensor | None) -> tuple[int, int]:
    return (0, 0) if x is None else (x.data_ptr(), 4 * x.stride(0))


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _forward(
    layout: _Layout, checkpoints: bool, index: Tensor | None = None, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    new = layout.u.new_empty
    shape = (layout.states, layout.channels)
    y = new(layout.tokens, layout.channels) if out is None else out
    final = new(layout.sequences, *shape) if layout.need_final else None
    stored = new(int(layout.chunk_offsets[-1]), *shape) if checkpoints else None
    arguments = (
        *layout.addresses(),
        *(_address(x) for x in (y, layout.initial, final, stored, layout.chunk_offsets)),
        layout.channels,
        layout.states,
        _address(index),
    )
    run_tasks(loops.scan_forward, [(*task, *arguments) for task in layout.tasks(torch.get_num_threads())[0]])
    return y, None if final is None else final.transpose(1, 2), stored


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        *tensors, initial_states, cu_seqlens, need_final = arguments
        y, final, stored = _forward(
            _Layout(ScanInputs(*tensors), initial_states, cu_seqlens, need_final), checkpoints=True
        )
        ctx.save_for_backward(*arguments[:-1], stored)
        ctx.set_materialize_grads(False)
        ctx.need_final = need_final
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, initial_states, cu_seqlens, stored = ctx.saved_tensors
        layout = _Layout(ScanInputs(*tensors), initial_states, cu_seqlens, ctx.need_final)
        new, tokens, channels, states = layout.u.new_empty, layout.tokens, layout.channels, layout.states
        grad_y = layout.u.new_zeros(tokens, channels) if grad_y is None else _rows(grad_y)
        if grad_final is not None:
            grad_final = grad_final.transpose(1, 2).contiguous()
        grad_u, grad_delta = new(tokens, channels), new(tokens, channels)
        grad_z = None if layout.z is None else new(tokens, channels)
        grad_initial = None if layout.initial is None else torch.empty_like(layout.initial)

        tasks, groups = layout.tasks(_BACKWARD_TASKS)
        # Gradients that several tasks add to have a copy for each task; the copies are summed afterwards.
        grad_rates = layout.u.new_zeros(groups, states, channels)
        grad_D, grad_bias = layout.u.new_zeros(groups, channels), layout.u.new_zeros(groups, channels)
        blocks = len(tasks) // groups
        grad_B, grad_C = new(blocks, tokens, states), new(blocks, tokens, states)
        rest = (
            *layout.addresses(),
            *(_address(x) for x in (stored, layout.chunk_offsets)),
            *_place(grad_y),
            *(_address(x) for x in (grad_final, grad_u, grad_delta, grad_z, grad_initial)),
            channels,
            states,
        )
        run_tasks(
            loops.scan_backward,
            [
                (
                    *task,
                    *(x[index // blocks].data_ptr() for x in (grad_rates, grad_D, grad_bias)),
                    *(x[index % blocks].data_ptr() for x in (grad_B, grad_C)),
                    *rest,
                )
                for index, task in enumerate(tasks)
            ],
        )
        optional = iter(ctx.needs_input_grad[5:9])
        return (
            grad_u,
            grad_delta,
            grad_rates.sum(0).t(),
            grad_B.sum(0),
            grad_C.sum(0),
            grad_D.sum(0) if next(optional) else None,
            grad_z if next(optional) else None,
            grad_bias.sum(0) if next(optional) else None,
            None if grad_initial is None or not next(optional) else grad_initial.transpose(1, 2),
            None,
            None,
        )
