"""Passes of micro-batches as CUDA graphs: all of a pass's launches in one.

A forward and backward pass of a few thousand tokens is thousands of kernels of some microseconds, which a CPU starts
slower than a GPU runs them. A graph holds them all and is started at once. It is captured for a shape: so many tokens
and sequences. Micro-batches are filled up to the next of a few shapes with sequences that count nothing; sixteen
lengths an octave keep what is computed in vain below 7% and at some 3% on average.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ssmrank.models.packing import Packed, pack

log = logging.getLogger(__name__)

MAX_TOKENS = 32768
"""Above, a pass keeps a GPU busy without a graph."""

_STEPS = 16
"""Shapes an octave."""

Pass = Callable[[Packed, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Adds the gradients of a micro-batch, given its groups' weights [G] and teacher's scores; returns its loss."""


@dataclass(frozen=True)
class Shape:
    """Tokens and groups of a captured pass, sequences that fill it up, and the longest of all sequences."""

    tokens: int
    groups: int
    filling: int
    longest: int


def round_up(tokens: int) -> int:
    """The least of the shapes' numbers of tokens that is not below `tokens`."""
    step = max(1, 2 ** math.floor(math.log2(max(tokens, 1))) // _STEPS)
    return -(-tokens // step) * step


def fill_up(lengths: Sequence[int], group_size: int, groups: int, longest: int) -> tuple[Shape, list[int]]:
    """The shape that sequences of these lengths, in groups, are run in, and the lengths of those that fill it up.

    Every filling sequence has a token at least, so that none is empty, and `longest` at most.
    """
    missing = groups * group_size - len(lengths)
    least = sum(lengths) + missing
    tokens = round_up(least + 1)
    filling = -(-(tokens // _STEPS + 1) // longest) + 1
    while tokens - sum(lengths) < missing + filling:
        tokens = round_up(tokens + 1)
    rest = tokens - sum(lengths) - missing - filling
    fillers = []
    for _ in range(missing + filling):
        extra = min(rest, longest - 1)
        fillers.append(1 + extra)
        rest -= extra
    assert rest == 0, (lengths, longest)
    return Shape(tokens, groups, filling, longest), fillers


class Graphs:
    """Runs passes, those of shapes that come again as CUDA graphs.

    The gradients are added in place: they must be the same tensors from the second pass on
    (`zero_grad(set_to_none=False)`). Where a capture fails, all runs on without, with a warning.
    """

    def __init__(self, run: Pass, group_size: int, groups: int, longest: int, device: torch.device) -> None:
        self.group_size = group_size
        self._run, self._device = run, device
        self._groups, self._longest = groups, longest
        self._needs: dict[Shape, int] = {}
        self._graphs: dict[Shape, _Graph] = {}
        self._pool: Any = None
        self.active = True

    def __call__(
        self, sequences: Sequence[np.ndarray], weights: Sequence[float], targets: torch.Tensor | None
    ) -> torch.Tensor:
        """Adds the gradients of a micro-batch whose groups have these weights; returns its loss, on the device."""
        if not self.active or sum(map(len, sequences)) > MAX_TOKENS:
            return self._run(pack(sequences, self._device), _on(weights, self._device), _moved(targets, self._device))
        lengths = [len(sequence) for sequence in sequences]
        shape, fillers = fill_up(lengths, self.group_size, self._groups, self._longest)
        packed = pack([*sequences, *(np.zeros(length, np.int32) for length in fillers)], self._device)
        padding = self._groups - len(weights)
        weight = _on([*weights, *[0.0] * padding], self._device)
        if targets is not None:
            targets = torch.nn.functional.pad(targets, (0, 0, 0, padding))
        targets = _moved(targets, self._device)
        if shape in self._graphs:
            return self._graphs[shape].replay(packed, weight, targets)
        if shape not in self._needs:
            return self._first(shape, packed, weight, targets)
        return self._capture(shape, packed, weight, targets)

    def _first(
        self, shape: Shape, packed: Packed, weights: torch.Tensor, targets: torch.Tensor | None
    ) -> torch.Tensor:
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        loss = self._run(packed, weights, targets)
        self._needs[shape] = torch.cuda.max_memory_allocated(self._device) - before
        return loss

    def _capture(
        self, shape: Shape, packed: Packed, weights: torch.Tensor, targets: torch.Tensor | None
    ) -> torch.Tensor:
        torch.cuda.empty_cache()
        if torch.cuda.mem_get_info(self._device)[0] < 2 * self._needs[shape]:
            return self._run(packed, weights, targets)
        graph = _Graph(packed, weights, targets, self._longest)
        try:
            with torch.cuda.graph(graph.graph, pool=self._pool):
                graph.loss = self._run(graph.packed, graph.weights, graph.targets)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.active = False
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.warning("CUDA graphs are not used: %s", reason)
            return self._run(packed, weights, targets)
        self._pool = self._pool or graph.graph.pool()
        self._graphs[shape] = graph
        return graph.replay(packed, weights, targets)


class _Graph:
    """A captured pass and the tensors that it reads."""

    loss: torch.Tensor

    def __init__(self, packed: Packed, weights: torch.Tensor, targets: torch.Tensor | None, longest: int) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # Kernels are launched for the longest sequence that may come.
        self.packed = packed.clone(lengths=(longest,) * len(packed.lengths))
        self.weights = weights.clone()
        self.targets = None if targets is None else targets.clone()

    def replay(self, packed: Packed, weights: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        self.packed.copy_(packed)
        self.weights.copy_(weights)
        if self.targets is not None and targets is not None:
            self.targets.copy_(targets)
        self.graph.replay()
        return self.loss


def _on(weights: Sequence[float], device: torch.device) -> torch.Tensor:
    return _moved(torch.tensor(weights, dtype=torch.float32), device)  # type: ignore[return-value]


def _moved(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    if tensor is None or device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
