"""The selective scan over packed sequences on a GPU, in Triton, forward and backward.

`mamba_ssm`'s scan knows neither where packed sequences start nor an initial state. A program here takes a block of
channels through one sequence after another: channels lie in the lanes of a warp and the N states of a channel in the
registers of its lane, so that the forward pass sums nothing across lanes. Tensors are token-major, as the projections
leave them. Nothing waits for the device, and the launch depends on shapes alone, so a CUDA graph can hold it.

The backward pass goes through a sequence from its end in chunks, whose first states the forward pass stored. It runs
a chunk forward once more, stores the state of every second step in scratch memory (small enough for the L2 cache), and
then takes two steps at a time back with all that they need in registers.

On one H100 in bfloat16, 64 sequences of 512 tokens, 2048 channels and 16 states take 0.9 ms forward and 4.4 ms
backward (255 registers a thread). Slower: states spread over lanes, more warps a program, sums over channels on tensor
cores, fewer registers for more programs at a time (5.0 ms with 208, 6.0 with 168, 8.6 with 128), chunks of 16 or 64.

Runs on CPU tensors under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmrank.kernels.triton_scan_backward import backward_kernel
from ssmrank.kernels.triton_scan_forward import forward_kernel
from ssmrank.kernels.triton_scan_tiles import SPREAD, projections_backward_kernel, projections_kernel

CHUNK = 32
"""Steps between stored states, a multiple of both tiles."""

FORWARD: dict[str, int] = {"BLOCK": 32, "TILE": 16, "AHEAD": 1}
BACKWARD: dict[str, int] = {"BLOCK": 64, "TILE": 8, "AHEAD": 1, "maxnreg": 208}
"""Channels of a program, 32 or 64; steps of a tile, 4, 8 or 16; whether the next state's numbers are loaded early."""

PTX = torch.version.hip is None
"""Whether to load four values at once, and to sum over the lanes of a warp, with NVIDIA's own instructions."""

PROGRAMS = 8192
"""About how many programs a launch should have where there are sequences enough."""

def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
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
    rates = A.t().float().contiguous()
    D = None if D is None else D.float().contiguous()
    delta_bias = None if delta_bias is None else delta_bias.float().contiguous()
    initial_states = None if initial_states is None else initial_states.transpose(1, 2).float().contiguous()
    u, delta, B, C = (_rows(tensor) for tensor in (u, delta, B, C))
    z = None if z is None else _rows(z)
    starts = cu_seqlens.to(u.device, torch.int64).contiguous()
    arguments = (u, delta, rates, B, C, D, z, delta_bias, initial_states, starts, need_final)
    if initial_index is None and out is None:
        y, final = _SelectiveScan.apply(*arguments)
    else:
        y, final, _ = _forward(*arguments, keep=False, index=initial_index, out=out)
    return y, None if final is None else final.transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _grid(channels: int, sequences: int, block: int) -> tuple[int, int]:
    """Blocks of channels, and groups of sequences."""
    blocks = triton.cdiv(channels, block)
    return blocks, max(1, min(sequences, triton.cdiv(PROGRAMS, blocks)))


def _slots(tokens: int, sequences: int, size: int) -> int:
    """How many tiles or chunks of this size sequences of any lengths have, numbered start // size + sequence + own."""
    return tokens // size + sequences + 1


def _tiles(B: Tensor, C: Tensor, starts: Tensor, tile: int) -> Tensor:
    """B and C as `[slots, N, 2, tile]`, see `triton_scan_tiles`."""
    (tokens, states), sequences = B.shape, len(starts) - 1
    tiles = B.new_empty(_slots(tokens, sequences, tile), states, 2, tile, dtype=torch.float32)
    projections_kernel[(sequences, SPREAD)](
        B, C, starts, tiles, B.stride(0), C.stride(0), N=states, NP=triton.next_power_of_2(states), TILE=tile,
        num_warps=1,
    )  # fmt: skip
    return tiles


def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, bias: Tensor | None,
    initial: Tensor | None, starts: Tensor, need_final: bool, *, keep: bool, index: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    (tokens, channels), states, sequences = u.shape, A.shape[0], len(starts) - 1
    y = u.new_empty(tokens, channels) if out is None else out
    final = A.new_empty(sequences, states, channels) if need_final else None
    stored = A.new_empty(_slots(tokens, sequences, CHUNK), states, channels) if keep else None
    grid = _grid(channels, sequences, FORWARD["BLOCK"])
    if sequences:
        tiles = _tiles(B, C, starts, FORWARD["TILE"])
        running = A.new_empty(grid[1], states, channels)
        forward_kernel[grid](
            u, delta, A, D, z, bias, starts, initial, index, tiles, y, final, stored, running,
            sequences, grid[1], u.stride(0), delta.stride(0), 0 if z is None else z.stride(0), channels,
            N=states, CHUNK=CHUNK, HAS_D=D is not None, HAS_Z=z is not None, HAS_BIAS=bias is not None,
            HAS_INITIAL=initial is not None, HAS_INDEX=index is not None, NEED_FINAL=need_final, STORE=keep,
            EVEN=channels % FORWARD["BLOCK"] == 0, PTX=PTX and u.is_cuda, num_warps=1, **FORWARD,
        )  # fmt: skip
    return y, final, stored


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        y, final, stored = _forward(*arguments, keep=any(ctx.needs_input_grad))
        ctx.save_for_backward(*arguments[:-1], stored)
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, z, bias, initial, starts, stored = ctx.saved_tensors
        (tokens, channels), states, sequences = u.shape, A.shape[0], len(starts) - 1
        grad_y = u.new_zeros(tokens, channels) if grad_y is None else _rows(grad_y)
        grad_final = None if grad_final is None else grad_final.float().contiguous()
        tile = BACKWARD["TILE"]
        blocks, groups = grid = _grid(channels, sequences, BACKWARD["BLOCK"])
        padded = triton.next_power_of_2(states)
        grad_u, grad_delta = u.new_empty(tokens, channels), delta.new_empty(tokens, channels)
        grad_z = None if z is None else z.new_empty(tokens, channels)
        grad_B, grad_C = B.new_empty(tokens, states), C.new_empty(tokens, states)
        grad_A = A.new_empty(groups, states, channels)
        grad_D, grad_bias = A.new_empty(groups, channels), A.new_empty(groups, channels)
        grad_initial = None if initial is None else torch.empty_like(initial)
        if sequences:
            tiles = _tiles(B, C, starts, tile)
            parts = A.new_empty(blocks, *tiles.shape)
            scratch = A.new_empty(groups, CHUNK // tile, states, channels)
            backward_kernel[grid](
                u, delta, A, D, z, bias, starts, initial, tiles, stored, scratch, grad_y, grad_final,
                grad_u, grad_delta, grad_A, parts, grad_D, grad_z, grad_bias, grad_initial,
                len(tiles), sequences, groups,
                u.stride(0), delta.stride(0), 0 if z is None else z.stride(0), grad_y.stride(0), channels,
                N=states, NP=padded, CHUNK=CHUNK, HAS_D=D is not None, HAS_Z=z is not None,
                HAS_BIAS=bias is not None, HAS_INITIAL=initial is not None, HAS_FINAL=grad_final is not None,
                EVEN=channels % BACKWARD["BLOCK"] == 0, PTX=PTX and u.is_cuda, num_warps=1, **BACKWARD,
            )  # fmt: skip
            projections_backward_kernel[(sequences, SPREAD)](
                parts, starts, grad_B, grad_C, blocks, tiles.numel(), N=states, NP=padded, TILE=tile, PARTS=8,
                num_warps=4,
            )  # fmt: skip
        else:
            grad_A, grad_D, grad_bias = grad_A.zero_(), grad_D.zero_(), grad_bias.zero_()
        return (
            grad_u,
            grad_delta,
            grad_A.sum(0),
            grad_B,
            grad_C,
            None if D is None else grad_D.sum(0),
            grad_z,
            None if bias is None else grad_bias.sum(0),
            grad_initial,
            None,
            None,
        )
