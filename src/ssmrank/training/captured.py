"""CUDA graphs of passes: all launches of a forward and backward pass in one.

A pass of a few thousand tokens is thousands of kernels of some microseconds, which a CPU starts slower than a GPU runs
them. A graph holds them all and is started at once. It is captured for a shape, and reads the same tensors each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch

from ssmrank.models.packing import Packed

log = logging.getLogger(__name__)

_SPARE = 1.2
"""A graph keeps what its pass needs, which may lie less densely than in the pass before."""

Tensors = tuple[torch.Tensor | None, ...]


class CapturedPasses:
    """Runs passes, those of shapes that come again as CUDA graphs.

    `run(packed, *tensors)` adds gradients and returns a loss. The gradients are added in place: they must be the same
    tensors from the second pass on (`zero_grad(set_to_none=False)`). Where a capture fails, all runs on without, with a
    warning; `active` then is False.
    """

    def __init__(self, run: Callable[..., torch.Tensor], device: torch.device) -> None:
        self._run, self._device = run, device
        self._needs: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, _Graph] = {}
        self._pool: Any = None
        self.active = True

    def __call__(self, shape: Hashable, longest: int, packed: Packed, *tensors: torch.Tensor | None) -> torch.Tensor:
        """The loss of a pass, on the device; passes of equal `shape` have as many sequences, tokens and so on.

        longest: tokens of the longest sequence that a pass of this shape may have.
        """
        if shape in self._graphs:
            return self._graphs[shape].replay(packed, tensors)
        if not self.active:
            return self._run(packed, *tensors)
        if shape not in self._needs:
            return self._first(shape, packed, tensors)
        return self._capture(shape, longest, packed, tensors)

    def _first(self, shape: Hashable, packed: Packed, tensors: Tensors) -> torch.Tensor:
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        loss = self._run(packed, *tensors)
        self._needs[shape] = torch.cuda.max_memory_allocated(self._device) - before
        return loss

    def _capture(self, shape: Hashable, longest: int, packed: Packed, tensors: Tensors) -> torch.Tensor:
        torch.cuda.empty_cache()
        if torch.cuda.mem_get_info(self._device)[0] < _SPARE * self._needs[shape]:
            return self._run(packed, *tensors)
        graph = _Graph(packed, tensors, longest)
        try:
            # Another thread may prepare the next batch meanwhile.
            with torch.cuda.graph(graph.graph, pool=self._pool, capture_error_mode="thread_local"):
                graph.loss = self._run(graph.packed, *graph.tensors)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.active = False
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.warning("CUDA graphs are not used: %s", reason)
            return self._run(packed, *tensors)
        self._pool = self._pool or graph.graph.pool()
        self._graphs[shape] = graph
        return graph.replay(packed, tensors)


class _Graph:
    """A captured pass and the tensors that it reads."""

    loss: torch.Tensor

    def __init__(self, packed: Packed, tensors: Tensors, longest: int) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # Kernels are launched for the longest sequence that may come.
        self.packed = packed.clone(lengths=(longest,) * len(packed.lengths))
        self.tensors = tuple(None if tensor is None else tensor.clone() for tensor in tensors)

    def replay(self, packed: Packed, tensors: Tensors) -> torch.Tensor:
        self.packed.copy_(packed)
        for own, theirs in zip(self.tensors, tensors, strict=True):
            if own is not None and theirs is not None:
                own.copy_(theirs)
        self.graph.replay()
        return self.loss
