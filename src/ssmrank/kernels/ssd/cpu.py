"""Mamba-2's mixer on a CPU as a differentiable function: numba's loops under torch's autograd."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels.packing import needs_gradient
from ssmrank.kernels.simd.threads import run_tasks
from ssmrank.kernels.ssd import cpu_loops as loops
from ssmrank.kernels.ssd.inputs import SSDInputs, WeighedInputs

LONGEST_CHUNK = 256
"""The longest chunk; a longer one's data would not fit in a core's cache."""

LONGEST_SUFFIX = 64
"""The longest sequence that begins with a given state and is not cut into chunks."""

_SUFFIX_TOKENS = 128
"""Tokens of a task of short sequences that begin with one state."""

_BACKWARD_TASKS = 16
"""Tasks wanted of a backward pass. It is fixed, so that sums over tasks do not depend on the number of threads."""


class _Plan(NamedTuple):
    starts: Tensor
    """First token of each chunk, and T; int64."""
    offsets: Tensor
    """First chunk of each sequence, and the number of chunks; int64."""
    order: list[int]
    """Sequences, longest first, so that no long one starts last and runs alone."""
    longest: int
    """Tokens of the longest chunk."""
    longest_sequence: int


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a plan made while evaluating serves the next training step too
def _plan(starts: tuple[int, ...], width: int, states: int) -> _Plan:
    cuts: list[int] = []
    offsets = [0]
    lengths = [end - start for start, end in pairwise(starts)]
    longest = 0
    for start, length in zip(starts[:-1], lengths, strict=True):
        count = chunk_count(length, width, states)
        cuts.extend(start + length * index // count for index in range(count))
        offsets.append(len(cuts))
        longest = max(longest, -(-length // count) if count else 0)
    cuts.append(starts[-1])
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return _Plan(torch.tensor(cuts), torch.tensor(offsets), order, longest, max(lengths, default=0))


def chunk_count(length: int, width: int, states: int) -> int:
    """The number of chunks of a sequence that minimises the work; none if it is empty.

    Work per token in a chunk of Q tokens: Q · P for M x, 12 Q for M itself (an exponential costs as much as 12
    products), and 4 N P where states pass between chunks.
    """

    def work(count: int) -> float:
        return length / count * (width + 12) + 4 * states * width * (1 - 1 / count)

    least = -(-length // LONGEST_CHUNK)
    return min(range(least, max(least, length // 64) + 1), key=work) if length else 0


def ssd(
    inputs: SSDInputs | WeighedInputs,
    cu_seqlens: Tensor,
    initial_states: Tensor | None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    *,
    need_final: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `packed_ssd`; all floating tensors are float32, widths and states multiples of 16.

    Not differentiable with an index or into `out`.
    """
    x, weights, log_decays, B, C = inputs.weighed()
    D = x.new_zeros(x.shape[1]) if inputs.D is None else inputs.D
    given = _Given(x, weights, log_decays, B, C, D, initial_states, cu_seqlens)
    if needs_gradient(x, given.decays, B, C, D, initial_states):
        assert initial_index is None and out is None
        y, final = _Ssd.apply(*given, need_final)
        return y, final
    layout = _Layout(given, need_final)
    if initial_index is None or layout.initial is None:
        return _forward(layout, keep=False, out=out)[:2]
    if not need_final and layout.plan.longest_sequence <= LONGEST_SUFFIX and int(initial_index.min()) >= 0:
        return _suffixes(layout, cu_seqlens, initial_index, out), None
    return _forward(layout, keep=False, index=initial_index.contiguous(), out=out)[:2]


class _Given(NamedTuple):
    """The tensors with gradients, and where sequences start."""

    x: Tensor
    steps: Tensor
    """`[T, H]`, what inputs are multiplied by: in Mamba-2 step sizes after bias and softplus."""
    decays: Tensor
    """`[T, H]`, logarithms of what steps leave of states: in Mamba-2 steps times A."""
    B: Tensor
    C: Tensor
    D: Tensor
    initial_states: Tensor | None
    cu_seqlens: Tensor


class _Layout:
    """The tensors in the layout that the loops read."""

    def __init__(self, given: _Given, need_final: bool) -> None:
        x, steps, decays, B, C, D, initial_states, cu_seqlens = given
        self.tokens, self.heads, self.width = x.shape
        self.groups, self.states = B.shape[1:]
        self.plan = _plan(tuple(cu_seqlens.tolist()), self.width, self.states)
        self.x, self.B, self.C = (_rows(tensor) for tensor in (x, B, C))
        self.steps, self.decays, self.D = (tensor.contiguous() for tensor in (steps, decays, D))
        self.initial = None if initial_states is None else initial_states.transpose(2, 3).contiguous()
        self.sequences = len(self.plan.offsets) - 1
        self.need_final = need_final

    def addresses(self) -> tuple[int, ...]:
        """`chunk_starts` to `D` of the loops' arguments."""
        return (
            *(self.plan.starts.data_ptr(), self.plan.offsets.data_ptr()),
            *_place(self.x),
            *(self.steps.data_ptr(), self.decays.data_ptr()),
            *_place(self.B),
            *_place(self.C),
            self.D.data_ptr(),
        )

    def tasks(self, at_once: int) -> list[tuple[int, int, int, int, int]]:
        """(sequence, group, first head, last head, block) of each task; a block numbers the parts of a group.

        Groups are divided only where there are fewer of them, over all sequences, than tasks wanted.
        """
        per_group = self.heads // self.groups
        blocks = max(1, min(at_once // max(1, self.sequences * self.groups), per_group))
        cuts = [per_group * block // blocks for block in range(blocks + 1)]
        return [
            (sequence, group, group * per_group + first, group * per_group + last, block)
            for sequence in self.plan.order
            for group in range(self.groups)
            for block, (first, last) in enumerate(pairwise(cuts))
        ]


def _rows(x: Tensor) -> Tensor:
    """The tensor itself if each token's values are contiguous, however far apart the tokens, else a copy."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def _place(x: Tensor) -> tuple[int, int]:
    return x.data_ptr(), 4 * x.stride(0)


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _forward(
    layout: _Layout, keep: bool, index: Tensor | None = None, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    new = layout.x.new_empty
    shape = (layout.heads, layout.states, layout.width)
    y = new(layout.tokens, layout.heads, layout.width) if out is None else out
    final = new(layout.sequences, *shape) if layout.need_final else None
    chunks = int(layout.plan.offsets[-1])
    # Where each sequence is one chunk there is no state to keep.
    keep = keep and (layout.initial is not None or chunks > sum(layout.plan.offsets.diff() > 0))
    stored = new(chunks, *shape) if keep else None
    rest = (
        *layout.addresses(),
        *(_address(tensor) for tensor in (y, layout.initial, final, stored)),
        *(layout.heads, layout.width, layout.states, layout.plan.longest, _address(index)),
    )
    threads = torch.get_num_threads()
    run_tasks(loops.ssd_forward, [(*task[:4], *rest) for task in layout.tasks(4 * threads if threads > 1 else 1)])
    return y, None if final is None else final.transpose(2, 3), stored


def _suffixes(layout: _Layout, cu_seqlens: Tensor, index: Tensor, out: Tensor | None) -> Tensor:
    assert layout.initial is not None
    starts = cu_seqlens.contiguous()
    y = layout.x.new_empty(layout.tokens, layout.heads, layout.width) if out is None else out
    rest = (
        starts.data_ptr(),
        *layout.addresses()[2:],
        y.data_ptr(),
        *(layout.heads, layout.width, layout.states, layout.plan.longest_sequence),
    )
    per_group = layout.heads // layout.groups
    blocks = max(1, min(torch.get_num_threads(), per_group))
    cuts = [per_group * block // blocks for block in range(blocks + 1)]
    state_bytes = 4 * layout.heads * layout.width * layout.states
    run_tasks(
        loops.ssd_suffixes,
        [
            (
                *(first, last, layout.initial.data_ptr() + row * state_bytes, group),
                *(group * per_group + low, group * per_group + high),
                *rest,
            )
            for first, last, row in _runs(starts.tolist(), index.tolist())
            for group in range(layout.groups)
            for low, high in pairwise(cuts)
        ],
    )
    return y


def _runs(starts: list[int], rows: list[int]) -> list[tuple[int, int, int]]:
    """(first, last, row) of neighbouring sequences with one row and not too many tokens."""
    runs = []
    first = 0
    for sequence, row in enumerate(rows):
        following = sequence + 1
        if following == len(rows) or rows[following] != row or starts[following + 1] - starts[first] > _SUFFIX_TOKENS:
            runs.append((first, following, row))
            first = following
    return runs


class _Ssd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        given, need_final = _Given(*arguments[:-1]), arguments[-1]
        y, final, stored = _forward(_Layout(given, need_final), keep=True)
        ctx.save_for_backward(*given, stored)
        ctx.set_materialize_grads(False)
        ctx.need_final = need_final
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        saved: Any = ctx.saved_tensors
        layout = _Layout(_Given(*saved[:-1]), ctx.need_final)
        new, tasks = layout.x.new_empty, layout.tasks(_BACKWARD_TASKS)
        grad_y = torch.zeros_like(layout.x) if grad_y is None else _rows(grad_y)
        grad_final = None if grad_final is None else grad_final.transpose(2, 3).contiguous()
        grad_x = new(layout.tokens, layout.heads, layout.width)
        grad_steps, grad_decays = new(layout.tokens, layout.heads), new(layout.tokens, layout.heads)
        grad_D = new(layout.sequences, layout.heads)
        grad_initial = None if layout.initial is None else torch.empty_like(layout.initial)
        # Each block of a group has its own sums.
        blocks = 1 + max(task[4] for task in tasks)
        grad_B = layout.x.new_zeros(blocks, layout.tokens, layout.groups, layout.states)
        grad_C = torch.zeros_like(grad_B)
        rest = (
            *layout.addresses(),
            *(int(layout.initial is not None), _address(saved[-1])),
            *_place(grad_y),
            *(_address(x) for x in (grad_final, grad_x, grad_steps, grad_decays, grad_D, grad_initial)),
            *(layout.heads, layout.groups, layout.width, layout.states, layout.plan.longest),
        )
        run_tasks(
            loops.ssd_backward,
            [(*task[:4], grad_B[task[4]].data_ptr(), grad_C[task[4]].data_ptr(), *rest) for task in tasks],
        )
        return (
            grad_x,
            grad_steps,
            grad_decays,
            grad_B.sum(0),
            grad_C.sum(0),
            grad_D.sum(0),
            None if grad_initial is None else grad_initial.transpose(2, 3),
            None,
            None,
        )
