"""Sizes that a GPU's kernels do not have, by those that they have: narrow heads are padded, many states are split.

The states of a head do not mix, so that its output is the sum of the outputs of parts of its states. Both are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmrank.kernels.packing import written
from ssmrank.kernels.ssd.inputs import SSDInputs


def ssd(
    run: Callable[..., Any],
    inputs: SSDInputs,
    cu_seqlens: Tensor,
    sizes: tuple[int, int],
    *,
    initial_states: Tensor | None = None,
    out: Tensor | None = None,
    return_final_states: bool = False,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """`packed_ssd` by calls of `run`, which is `packed_ssd` too, with heads and states of these sizes."""
    (wide, part), width, states = sizes, inputs.x.shape[2], inputs.B.shape[2]
    total: Tensor | None = None
    finals = []
    for first in range(0, states, part):
        columns = slice(first, min(first + part, states))
        own = inputs._replace(
            x=F.pad(inputs.x, (0, wide - width)),
            B=_padded(inputs.B[..., columns], part),
            C=_padded(inputs.C[..., columns], part),
            D=inputs.D if first == 0 else None,
        )
        initial = initial_states
        if initial is not None:
            initial = F.pad(_padded(initial[..., columns], part), (0, 0, 0, wide - width))
        result = run(own, cu_seqlens, initial_states=initial, return_final_states=return_final_states, **options)
        y = result[0] if return_final_states else result
        total = y if total is None else total + y
        if return_final_states:
            finals.append(result[1][:, :, :width, : columns.stop - first])
    assert total is not None
    total = written(total[..., :width], out)
    return (total, torch.cat(finals, dim=-1)) if return_final_states else total


def _padded(tensor: Tensor, size: int) -> Tensor:
    return F.pad(tensor, (0, size - tensor.shape[-1]))
