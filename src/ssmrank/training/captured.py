"""Runs passes as CUDA graphs: one launch for all kernels of a forward and backward pass.

A pass over a few thousand tokens has thousands of kernels of some microseconds each, which a CPU launches slower than a
GPU runs them. A graph launches them all at once. It is captured for one shape and reads the same tensors each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch

from ssmrank.models.architectures import architecture_of
from ssmrank.models.packing import Packed
from ssmrank.models.precision import Precision
from ssmrank.training.memory import free_memory

log = logging.getLogger(__name__)

_SPARE = 1.2
"""A graph is captured only if this many times its pass's memory is free, because it may be laid out less densely."""

Tensors = tuple[torch.Tensor | None, ...]


def may_capture(backbone: Any, precision: Precision, device: torch.device) -> bool:
    """Whether passes through a backbone may be CUDA graphs: on a GPU, in bf16, if its architecture allows it.

    In float32, attention's kernels depend on the lengths of the sequences, which a graph would fix.
    """
    return device.type == "cuda" and precision == "bf16" and architecture_of(backbone.config.model_type).captured


class CapturedPasses:
    """Runs passes; a shape that comes again is captured as a CUDA graph.

    `run(packed, *tensors)` adds gradients and returns a loss. Gradients are added in place, so they must be the same
    tensors from the second pass on (`zero_grad(set_to_none=False)`). If a capture fails, a warning is logged, `active`
    becomes False, and new shapes run without graphs.
    """

    def __init__(self, run: Callable[..., torch.Tensor], device: torch.device) -> None:
        self._run, self._device = run, device
        self._needs: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, _Graph] = {}
        self._pool: Any = None
        self.active = True

    def __call__(self, shape: Hashable, longest: int, packed: Packed, *tensors: torch.Tensor | None) -> torch.Tensor:
        """The loss of a pass, on the device. Passes of equal `shape` have tensors of equal shapes.

        longest: the most tokens that a sequence of this shape may have.
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
        if free_memory(self._device) < _SPARE * self._needs[shape]:
            return self._run(packed, *tensors)
        graph = _Graph(packed, tensors, longest)
        try:
            # Another thread may prepare the next batch in the meantime.
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
        # The captured kernels are launched for the longest sequence that may come.
        self.packed = packed.clone(lengths=(longest,) * len(packed.lengths))
        self.tensors = tuple(None if tensor is None else tensor.clone() for tensor in tensors)

    def replay(self, packed: Packed, tensors: Tensors) -> torch.Tensor:
        self.packed.copy_(packed)
        for own, theirs in zip(self.tensors, tensors, strict=True):
            if own is not None and theirs is not None:
                own.copy_(theirs)
        self.graph.replay()
        return self.loss
