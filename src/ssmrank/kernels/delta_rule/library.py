"""The gated delta rule by the kernels of flash-linear-attention (`fla-core`), on a GPU.

They take 64 tokens at a time, forward and backward, and sequences laid end to end. The package tunes its kernels by
their times when they first run.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from torch import Tensor

from ssmrank.kernels.delta_rule.inputs import DeltaInputs

CHUNK_SIZE = 64


def delta_rule(
    inputs: DeltaInputs, cu_seqlens: Tensor, initial_states: Tensor | None, *, need_final: bool
) -> tuple[Tensor, Tensor | None]:
    """See `packed_delta_rule`, of at least one token.

    Products are in the values' dtype, which queries and keys are rounded to; sums, decays, rates and states in float32.
    """
    starts, chunks = _layout(tuple(cu_seqlens.tolist()), inputs.values.device)
    values, queries, keys = (tensor.to(inputs.values.dtype)[None] for tensor in inputs[:3])
    log_decays, rates = (tensor.float()[None] for tensor in inputs[3:])
    y, final = chunk_gated_delta_rule(
        *(queries, keys, values, log_decays, rates),
        scale=1.0,
        initial_state=None if initial_states is None else initial_states.float(),
        output_final_state=need_final,
        cu_seqlens=starts,
        chunk_indices=chunks,
        chunk_size=CHUNK_SIZE,
    )
    return y[0], final


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # one made while evaluating serves the next training step too
def _layout(starts: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """`cu_seqlens`, and the sequence and the number within it of each chunk, both int64.

    The package remembers what follows from `cu_seqlens` by the tensor, not by its numbers, so it gets a tensor that
    nobody writes to.
    """
    counts = [-(-(end - start) // CHUNK_SIZE) for start, end in pairwise(starts)]
    chunks = [(sequence, number) for sequence, count in enumerate(counts) for number in range(count)]
    return torch.tensor(starts, device=device), torch.tensor(chunks, device=device)
