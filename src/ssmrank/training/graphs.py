"""Passes of micro-batches as CUDA graphs.

A graph is captured for one shape, which is a number of tokens and a number of sequences. Micro-batches are filled up to
the next of a few shapes with sequences that do not count. With sixteen shapes per octave, the wasted work is below 7%,
and about 3% on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ssmrank.models.packing import Packed, pack
from ssmrank.training.captured import CapturedPasses

MAX_TOKENS = 32768
"""A pass of more tokens keeps a GPU busy without a graph."""

_STEPS = 16
"""Shapes per octave."""

_LARGEST_EXCESS = 64
"""The most tokens by which a shape exceeds a round number."""

Pass = Callable[[Packed, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Adds the gradients of a micro-batch, given its groups' weights [G] and teacher's scores; returns its loss."""


@dataclass(frozen=True)
class Shape:
    """The shape of a captured pass.

    tokens, groups: how many it has; filling: how many sequences only fill it up; longest: the most tokens that a
    sequence may have.
    """

    tokens: int
    groups: int
    filling: int
    longest: int


def round_up(tokens: int) -> int:
    """The least round number of tokens, of `_STEPS` per octave, that is not below `tokens`."""
    step = max(1, 2 ** math.floor(math.log2(max(tokens, 1))) // _STEPS)
    return -(-tokens // step) * step


def _next_shape(tokens: int) -> int:
    """The least number of tokens of a shape that is not below `tokens`.

    Shapes are a little larger than round numbers, because micro-batches often have a power of two tokens and need at
    least one filling token.
    """
    octave = 2 ** math.floor(math.log2(max(tokens, 1)))
    excess = min(_LARGEST_EXCESS, octave // _STEPS // 2)
    return round_up(tokens - excess) + excess


def fill_up(lengths: Sequence[int], group_size: int, groups: int, longest: int) -> tuple[Shape, list[int]]:
    """The shape for groups of sequences of these lengths, and the lengths of the sequences that fill it up.

    Every filling sequence has at least one token, because no sequence may be empty, and at most `longest`.
    """
    missing = groups * group_size - len(lengths)
    least = sum(lengths) + missing
    tokens = _next_shape(least + 1)
    filling = -(-(tokens // _STEPS + 1) // longest) + 1
    while tokens - sum(lengths) < missing + filling:
        tokens = _next_shape(tokens + 1)
    rest = tokens - sum(lengths) - missing - filling
    fillers = []
    for _ in range(missing + filling):
        extra = min(rest, longest - 1)
        fillers.append(1 + extra)
        rest -= extra
    assert rest == 0, (lengths, longest)
    return Shape(tokens, groups, filling, longest), fillers


class Graphs:
    """Fills micro-batches up to a shape and runs them as CUDA graphs if the shape comes again (see CapturedPasses)."""

    def __init__(self, run: Pass, group_size: int, groups: int, longest: int, device: torch.device) -> None:
        self.group_size = group_size
        self._run, self._device = run, device
        self._groups, self._longest = groups, longest
        self._passes = CapturedPasses(run, device)

    @property
    def active(self) -> bool:
        """False once a capture has failed."""
        return self._passes.active

    def __call__(
        self, sequences: Sequence[np.ndarray], weights: Sequence[float], targets: torch.Tensor | None
    ) -> torch.Tensor:
        """Adds the gradients of a micro-batch whose groups have these weights, and returns its loss, on the device."""
        if not self.active or sum(map(len, sequences)) > MAX_TOKENS:
            return self._run(pack(sequences, self._device), _on(weights, self._device), _moved(targets, self._device))
        lengths = [len(sequence) for sequence in sequences]
        shape, fillers = fill_up(lengths, self.group_size, self._groups, self._longest)
        packed = pack([*sequences, *(np.zeros(length, np.int32) for length in fillers)], self._device)
        padding = self._groups - len(weights)
        weight = _on([*weights, *[0.0] * padding], self._device)
        if targets is not None:
            targets = torch.nn.functional.pad(targets, (0, 0, 0, padding))
        return self._passes(shape, self._longest, packed, weight, _moved(targets, self._device))


def _on(weights: Sequence[float], device: torch.device) -> torch.Tensor:
    return _moved(torch.tensor(weights, dtype=torch.float32), device)  # type: ignore[return-value]


def _moved(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    if tensor is None or device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
