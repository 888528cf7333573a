"""The selective scan over packed sequences on a GPU, in Triton, forward and backward.

`mamba_ssm`'s scan supports neither packed sequences nor an initial state. A program here processes one sequence after
another for a block of channels. Channels are in the lanes of a warp and tokens in the registers of a lane, so the
forward pass sums nothing across lanes. Tensors are token-major, as the projections leave them. Nothing waits for the
device, and the launch depends on shapes alone, so a CUDA graph can hold it.

The rows of a tile of tokens are loaded at once, and what depends on no state is computed once. Then a loop goes over
the states: each advances through the tile in registers, and is kept in memory until the next tile. The backward pass
processes a sequence in chunks, from its end. It reads the state that the forward pass stored at the chunk's start, and
runs all tiles of the chunk but the last forward again. The gradients of B and C are sums over channels. They are
written for each tile and block of channels and added last, so that the result is the same in every run. Where there are
few sequences, segments of them run in parallel (see `gpu_segments`).

Kernels are compiled for the numbers of channels and states and for strides, all of which are a model's.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels import dispatch
from ssmrank.kernels.gpu.rows import dense
from ssmrank.kernels.gpu.sums import add_columns
from ssmrank.kernels.gpu.tiles import may_use_ptx
from ssmrank.kernels.packing import chosen_states
from ssmrank.kernels.selective_scan.gpu_backward import backward_kernel
from ssmrank.kernels.selective_scan.gpu_forward import forward_kernel
from ssmrank.kernels.selective_scan.gpu_segments import beginnings_kernel, ends_kernel, join_kernel, table_kernel
from ssmrank.kernels.selective_scan.gpu_tiles import SPREAD, projections_backward_kernel, projections_kernel
from ssmrank.kernels.selective_scan.inputs import ScanInputs

CHUNK = 16
"""Steps between stored states, a multiple of both tiles."""

FORWARD: dict[str, int] = {"BLOCK": 64, "TILE": 8, "maxnreg": 128}
BACKWARD: dict[str, int] = {"BLOCK": 32, "TILE": 16, "maxnreg": 208}
"""Channels of a program (32 or 64); steps of a tile (4, 8 or 16); the most registers of a thread."""

UNROLL = 2
"""States in one iteration of the forward pass's loop."""

SEGMENT = 64
"""Tokens of a segment, a multiple of CHUNK, where sequences are too few to fill the GPU; 0: sequences are not cut."""

ENOUGH = 24 * 2048
"""Sequences times channels that fill the GPU."""

PROGRAMS = 8192
"""About how many programs a launch should have where there are sequences enough."""


def selective_scan(
    inputs: ScanInputs,
    cu_seqlens: Tensor,
    initial_states: Tensor | None,
    initial_index: Tensor | None = None,
    out: Tensor | None = None,
    *,
    need_final: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `packed_selective_scan`; u, delta, B, C and z in any dtype, computed in float32; y in u's dtype.

    Not differentiable with an index or into `out`.
    """
    # Within the kernels channels are contiguous in A and in states too.
    u, delta, A, B, C, D, z, delta_bias = inputs
    rates = A.t().float().contiguous()
    D = None if D is None else D.float().contiguous()
    delta_bias = None if delta_bias is None else delta_bias.float().contiguous()
    initial_states = None if initial_states is None else initial_states.transpose(1, 2).float().contiguous()
    u, delta, B, C = map(dense, (u, delta, B, C))
    z = None if z is None else dense(z)
    starts = cu_seqlens.to(u.device, torch.int64).contiguous()
    ready = ScanInputs(u, delta, rates, B, C, D, z, delta_bias)
    if initial_index is None and out is None:
        y, final = _SelectiveScan.apply(*ready, initial_states, starts, need_final)
    else:
        y, final, _ = forward(ready, initial_states, starts, need_final, keep=False, index=initial_index, out=out)
    return y, None if final is None else final.transpose(1, 2)


def _grid(channels: int, sequences: int, block: int) -> tuple[int, int]:
    """Blocks of channels, and groups of sequences."""
    blocks = triton.cdiv(channels, block)
    return blocks, max(1, min(sequences, triton.cdiv(PROGRAMS, blocks)))


def _slots(tokens: int, sequences: int, size: int) -> int:
    """The most tiles or chunks of this size that sequences have; tile i of sequence s is start // size + s + i."""
    return tokens // size + sequences + 1


def _stored(A: Tensor, starts: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
    return A.new_empty(_slots(tokens, len(starts) - 1, CHUNK), *A.shape, dtype=dtype)


def _tiles(B: Tensor, C: Tensor, starts: Tensor, tile: int) -> Tensor:
    """B and C as `gpu_tiles` describes them."""
    (tokens, states), sequences = B.shape, len(starts) - 1
    slots = _slots(tokens, sequences, tile)
    if B.dtype == C.dtype == torch.bfloat16:
        tiles = B.new_empty(slots, states, tile, dtype=torch.int32)
    else:
        tiles = B.new_empty(slots, states, 2, tile, dtype=torch.float32)
    projections_kernel[(sequences, SPREAD)](
        B, C, starts, tiles, B.stride(0), C.stride(0), N=states, NP=triton.next_power_of_2(states), TILE=tile,
        num_warps=1,
    )  # fmt: skip
    return tiles


class Kept(NamedTuple):
    """What the forward pass keeps for the backward pass."""

    stored: Tensor | None
    """States at the starts of chunks, except a sequence's first chunk."""
    segments: Tensor | None = None
    """Where segments start, if there are too few sequences."""
    states: Tensor | None = None
    """The states that segments begin with."""
    totals: Tensor | None = None
    """Sums of the segments' step sizes."""


def _segments(starts: Tensor, tokens: int, channels: int) -> Tensor | None:
    """Where segments start, `[segments + 1]`; None where there are sequences enough, or must not matter."""
    sequences = len(starts) - 1
    if (
        not SEGMENT
        or dispatch.is_batch_invariant()
        or tokens < 2 * SEGMENT * sequences
        or channels * sequences >= ENOUGH
    ):
        return None
    segments = starts.new_empty(_slots(tokens, sequences, SEGMENT))
    table_kernel[(sequences,)](starts, segments, sequences, SEGMENT=SEGMENT, BLOCK=64, num_warps=1)
    return segments


def forward(
    inputs: ScanInputs, initial: Tensor | None, starts: Tensor, need_final: bool, *, keep: bool,
    index: Tensor | None = None, out: Tensor | None = None, rounded: bool = False,
) -> tuple[Tensor, Tensor | None, Kept]:  # fmt: skip
    """Returns contiguous y in u's dtype (or `out`), the final states if needed, and what is kept if `keep` is true.

    Args:
        inputs: rows of u, delta, z, B and C may be strided. A is `[N, channels]`, float32 and contiguous, as D and
            delta_bias are.
        initial: `[S, N, channels]`, float32 and contiguous, as the final states are.
        starts: int64 `[S + 1]`.
        need_final: whether final states are returned.
        keep: whether a backward pass follows.
        index: see `packed_selective_scan`.
        out: `[T, channels]`, contiguous.
        rounded: whether states may be kept in u's dtype. The output does not change.
    """
    u, delta, A, B, C, _, _, bias = inputs
    (tokens, channels), states, sequences = u.shape, A.shape[0], len(starts) - 1
    y = u.new_empty(tokens, channels) if out is None else out
    final = A.new_empty(sequences, states, channels) if need_final else None
    if not sequences:
        return y, final, Kept(None)
    segments = _segments(starts, tokens, channels)
    if segments is not None:
        if index is not None:
            initial = chosen_states(initial, index)
        tiles = _tiles(B, C, segments, FORWARD["TILE"])
        begun, totals = _segment_states(u, delta, A, bias, initial, starts, segments, tiles, final)
        stored = _stored(A, segments, tokens, A.dtype) if keep else None
        _launch_forward(inputs, tiles, begun, segments, None, y, None, stored)
        return y, final, Kept(stored, segments, begun, totals)
    rounded = rounded and initial is None and BACKWARD["TILE"] == CHUNK  # then the kernel reads no other states
    stored = _stored(A, starts, tokens, u.dtype if rounded else A.dtype) if keep else None
    tiles = _tiles(B, C, starts, FORWARD["TILE"])
    _launch_forward(inputs, tiles, initial, starts, index, y, final, stored)
    return y, final, Kept(stored)


def _launch_forward(
    inputs: ScanInputs, tiles: Tensor, initial: Tensor | None, starts: Tensor, index: Tensor | None, y: Tensor,
    final: Tensor | None, stored: Tensor | None,
) -> None:  # fmt: skip
    u, delta, A, _, _, D, z, bias = inputs
    channels, states, sequences = u.shape[1], A.shape[0], len(starts) - 1
    _, groups = grid = _grid(channels, sequences, FORWARD["BLOCK"])
    running = A.new_empty(groups, states, channels)
    forward_kernel[grid](
        u, delta, A, D, z, bias, starts, initial, index, tiles, y, final, stored, running,
        sequences, groups, u.stride(0), delta.stride(0), 0 if z is None else z.stride(0), channels,
        N=states, CHUNK=CHUNK, HAS_D=D is not None, HAS_Z=z is not None, HAS_BIAS=bias is not None,
        HAS_INITIAL=initial is not None, HAS_INDEX=index is not None, NEED_FINAL=final is not None,
        STORE=stored is not None, ROUNDED=stored is not None and stored.dtype != A.dtype, UNROLL=UNROLL,
        **_options(FORWARD, u),
    )  # fmt: skip


def _options(settings: dict[str, int], u: Tensor) -> dict[str, Any]:
    return {**settings, "EVEN": u.shape[1] % settings["BLOCK"] == 0, "PTX": may_use_ptx(u), "num_warps": 1}


def _segment_states(
    u: Tensor, delta: Tensor, A: Tensor, bias: Tensor | None, initial: Tensor | None, starts: Tensor,
    segments: Tensor, tiles: Tensor, final: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The initial states of segments, and the sums of their step sizes; writes the final states."""
    channels, states, count = u.shape[1], A.shape[0], len(segments) - 1
    ends, totals = A.new_empty(count, states, channels), A.new_empty(count, channels)
    ends_kernel[(triton.cdiv(channels, FORWARD["BLOCK"]), count)](
        u, delta, A, bias, segments, tiles, ends, totals, u.stride(0), delta.stride(0), channels,
        N=states, HAS_BIAS=bias is not None, **_options(FORWARD, u),
    )  # fmt: skip
    return _joined(A, starts, totals, ends, initial, final, back=False), totals


def _segment_gradients(
    delta: Tensor, A: Tensor, z: Tensor | None, bias: Tensor | None, starts: Tensor, kept: Kept, tiles: Tensor,
    grad_y: Tensor, grad_final: Tensor | None, grad_initial: Tensor | None,
) -> Tensor:  # fmt: skip
    """The gradients of segments' last states; writes the gradients of the initial states."""
    assert kept.segments is not None and kept.totals is not None
    channels, states, count = delta.shape[1], A.shape[0], len(kept.segments) - 1
    beginnings = A.new_empty(count, states, channels)
    beginnings_kernel[(triton.cdiv(channels, BACKWARD["BLOCK"]), count)](
        delta, A, z, bias, kept.segments, tiles, grad_y, beginnings,
        delta.stride(0), 0 if z is None else z.stride(0), grad_y.stride(0), channels,
        N=states, HAS_Z=z is not None, HAS_BIAS=bias is not None, **_options(BACKWARD, delta),
    )  # fmt: skip
    return _joined(A, starts, kept.totals, beginnings, grad_final, grad_initial, back=True)


def _joined(
    A: Tensor, starts: Tensor, totals: Tensor, parts: Tensor, outer: Tensor | None, result: Tensor | None, *, back: bool
) -> Tensor:
    (states, channels), sequences = A.shape, len(starts) - 1
    joined = torch.empty_like(parts)
    join_kernel[(triton.cdiv(channels, 32), sequences)](
        A, starts, totals, parts, outer, joined, result, channels,
        N=states, NP=triton.next_power_of_2(states), BLOCK=32, SEGMENT=SEGMENT, BACK=back,
        HAS_OUTER=outer is not None, HAS_RESULT=result is not None, PTX=may_use_ptx(A), num_warps=4,
    )  # fmt: skip
    return joined


class Gradients(NamedTuple):
    """Where the backward pass writes the gradients of each token; rows of z, B and C may be strided."""

    u: Tensor
    delta: Tensor
    """May be delta itself."""
    B: Tensor
    C: Tensor
    z: Tensor | None
    y: Tensor | None
    """Gets the gated output again, if it is not None; it may be the tensor of the output's gradient."""


def backward(
    inputs: ScanInputs, initial: Tensor | None, starts: Tensor, kept: Kept, grad_y: Tensor,
    grad_final: Tensor | None, grad_initial: Tensor | None, into: Gradients,
) -> Tensor:  # fmt: skip
    """Writes `into` and `grad_initial`; inputs are as in `forward`. Rows of grad_y may be strided.

    Returns parts of the other gradients to be summed, float32 `[parts, N C + 2 C]`: those of A `[N, C]`, D and bias.
    """
    u, delta, A, B, C, D, z, bias = inputs
    channels, states = u.shape[1], A.shape[0]
    ordinary = starts if kept.segments is None else kept.segments
    sequences, tile = len(ordinary) - 1, BACKWARD["TILE"]
    blocks, groups = grid = _grid(channels, sequences, BACKWARD["BLOCK"])
    sums = A.new_zeros(groups, (states + 2) * channels)
    if not sequences:
        return sums
    tiles = _tiles(B, C, ordinary, tile)
    parts = A.new_empty(blocks, len(tiles), states, 2, tile)
    scratch = A.new_empty(groups, CHUNK // tile, states, channels)
    grad_outer = grad_initial
    if kept.segments is not None:
        grad_final = _segment_gradients(delta, A, z, bias, starts, kept, tiles, grad_y, grad_final, grad_initial)
        initial, grad_outer = kept.states, None
    backward_kernel[grid](
        u, delta, A, D, z, bias, ordinary, initial, tiles, kept.stored, scratch, grad_y, grad_final,
        into.u, into.delta, into.z, into.y, parts, sums, grad_outer,
        len(tiles), sequences, groups,
        u.stride(0), delta.stride(0), 0 if z is None else z.stride(0), grad_y.stride(0),
        0 if into.z is None else into.z.stride(0), channels,
        N=states, CHUNK=CHUNK, HAS_D=D is not None, HAS_Z=z is not None, HAS_BIAS=bias is not None,
        HAS_INITIAL=initial is not None, HAS_FINAL=grad_final is not None,
        NEED_INITIAL=grad_outer is not None, NEED_Y=into.y is not None, **_options(BACKWARD, u),
    )  # fmt: skip
    projections_backward_kernel[(sequences, SPREAD)](
        parts, ordinary, into.B, into.C, blocks, parts[0].numel(), into.B.stride(0), into.C.stride(0),
        N=states, NP=triton.next_power_of_2(states), TILE=tile, PARTS=8, num_warps=4,
    )  # fmt: skip
    return sums


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        *tensors, initial, starts, need_final = arguments
        y, final, kept = forward(ScanInputs(*tensors), initial, starts, need_final, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(*arguments[:-1], *kept)
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(ScanInputs._fields)
        inputs, (initial, starts, *kept) = ScanInputs(*ctx.saved_tensors[:count]), ctx.saved_tensors[count:]
        u, delta, A, B, C, D, z, bias = inputs
        (tokens, channels), states = u.shape, A.shape[0]
        grad_y = u.new_zeros(tokens, channels) if grad_y is None else dense(grad_y)
        grad_final = None if grad_final is None else grad_final.float().contiguous()
        grad_initial = None if initial is None else torch.empty_like(initial)
        grads = Gradients(
            u.new_empty(tokens, channels),
            delta.new_empty(tokens, channels),
            B.new_empty(tokens, states),
            C.new_empty(tokens, states),
            None if z is None else z.new_empty(tokens, channels),
            None,
        )
        sums = backward(inputs, initial, starts, Kept(*kept), grad_y, grad_final, grad_initial, grads)
        grad_A, grad_D, grad_bias = add_columns(sums)[0].split([A.numel(), channels, channels])
        return (
            grads.u,
            grads.delta,
            grad_A.view(A.shape),
            grads.B,
            grads.C,
            None if D is None else grad_D,
            grads.z,
            None if bias is None else grad_bias,
            grad_initial,
            None,
            None,
        )
