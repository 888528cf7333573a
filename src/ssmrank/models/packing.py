"""Sequences laid end to end, so that no padding is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

if TYPE_CHECKING:
    from ssmrank.models.forks import Forks


@dataclass(frozen=True, eq=False)
class Packed:
    """S sequences of T tokens in all.

    input_ids: int64 [T]; position_ids: int64 [T], each token's place in its own sequence; sequence_ids: int32 [T];
    cu_seqlens: int64 [S + 1], where each sequence starts and, last, T; lengths: the same on the host; memory: as many
    sequences, which these attend to across (a decoder's encoder); forks: where some of the sequences continue others,
    how (see `models.forks`); position_ids then count from the beginning of what is continued.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    sequence_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    lengths: tuple[int, ...]
    memory: Packed | None = None
    forks: Forks | None = None

    @property
    def first(self) -> torch.Tensor:
        """Index of each sequence's first token, int64 [S]."""
        return self.cu_seqlens[:-1]

    @property
    def last(self) -> torch.Tensor:
        """Index of each sequence's last token, int64 [S]; with forks, of those that nothing continues."""
        ends = self.cu_seqlens[1:] - 1
        return ends if self.forks is None else ends[self.forks.ends[0].segments.start :]

    @cached_property
    def singles(self) -> Packed:
        """A layout of one token for each sequence, which attends across to this one."""
        count, device = len(self.lengths), self.cu_seqlens.device
        return replace(_layout(torch.arange(count + 1, device=device), (1,) * count), memory=self)

    @cached_property
    def bounds(self) -> torch.Tensor:
        """`cu_seqlens` as FlashAttention reads it, int32."""
        return self.cu_seqlens.to(torch.int32)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    def clone(self, lengths: tuple[int, ...]) -> Packed:
        """The same in tensors of its own, as sequences of other lengths for whoever looks at the host's."""
        ids, positions, numbers, starts = (tensor.clone() for tensor in self._tensors)
        return Packed(ids, positions, numbers, starts, lengths)

    def copy_(self, other: Packed) -> None:
        """Takes another's tokens into the same tensors; both have as many tokens and sequences."""
        for tensor, theirs in zip(self._tensors, other._tensors, strict=True):
            tensor.copy_(theirs)

    @property
    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return self.input_ids, self.position_ids, self.sequence_ids, self.cu_seqlens

    @cached_property
    def grid(self) -> LengthGrid:
        """The sequences as matrices of about equal length."""
        return _length_grid(self.lengths, self._groups, self.input_ids.device)

    @cached_property
    def grid_along_memory(self) -> LengthGrid:
        """The sequences as matrices, one for each of `memory.grid`'s and of the same sequences in the same order."""
        assert self.memory is not None
        return _length_grid(self.lengths, self.memory._groups, self.input_ids.device)

    @cached_property
    def _groups(self) -> list[np.ndarray]:
        return list(_similar_lengths(np.asarray(self.lengths)))


_Batch = TypeVar("_Batch")


def moved(batch: _Batch, device: torch.device | str) -> _Batch:
    """The batch with all its tensors on a device; from pinned memory without waiting for them."""
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def mapped(batch: _Batch, function: Callable[[torch.Tensor], torch.Tensor]) -> _Batch:
    """The batch with the function's value in the place of each tensor."""

    def change(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return function(value)
        if is_dataclass(value):
            changed = {field.name: change(getattr(value, field.name)) for field in fields(value)}
            return replace(value, **changed)  # type: ignore[type-var]
        if isinstance(value, tuple) and value and not isinstance(value[0], int):
            return tuple(change(part) for part in value)
        return value

    return change(batch)


@dataclass(frozen=True, eq=False)
class LengthGrid:
    """The sequences as matrices of tokens, each of sequences of about equal length, laid end to end as cells.

    shapes: (sequences, longest) of each matrix; cells: int64 [C], each cell's token, a sequence's last token again
    behind its end; real: bool [C], false there; complete: all cells are real; places: int64 [T], each token's cell.
    """

    shapes: tuple[tuple[int, int], ...]
    cells: torch.Tensor
    real: torch.Tensor
    complete: bool
    places: torch.Tensor

    def spread(self, tokens: torch.Tensor) -> torch.Tensor:
        """[T, ...] to [C, ...]."""
        return _Spread.apply(tokens, self)

    def collect(self, cells: torch.Tensor) -> torch.Tensor:
        """[C, ...] to [T, ...]; cells behind a sequence's end are dropped."""
        return _Collect.apply(cells, self)


class _Spread(torch.autograd.Function):
    # The gradient of a cell that no token reads is zero, so going back is a gather too, not a slow scatter.
    @staticmethod
    def forward(ctx, tokens, grid):  # type: ignore[no-untyped-def]
        ctx.grid = grid
        return tokens.index_select(0, grid.cells)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient.index_select(0, ctx.grid.places), None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(ctx, cells, grid):  # type: ignore[no-untyped-def]
        ctx.grid = grid
        return cells.index_select(0, grid.places)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        cells = gradient.index_select(0, ctx.grid.cells)
        if not ctx.grid.complete:
            cells = cells * ctx.grid.real.view(-1, *[1] * (cells.ndim - 1))
        return cells, None


def pack(sequences: Sequence[Sequence[int] | np.ndarray], device: torch.device | str = "cpu") -> Packed:
    """Packs token id sequences (each at least one token) in the order given."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    tokens = np.concatenate([np.asarray(sequence) for sequence in sequences]) if len(lengths) else lengths
    return pack_tokens(tokens, lengths, device)


def pack_tokens(tokens: np.ndarray, lengths: np.ndarray, device: torch.device | str = "cpu") -> Packed:
    """Packs sequences of these lengths (each at least one), int64 [S], that already lie end to end."""
    if len(lengths) == 0 or lengths.min() == 0:
        raise ValueError("pack needs at least one sequence, and at least one token in each")
    starts = np.concatenate([[0], np.cumsum(lengths)])

    def move(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        # From pinned memory, so that the CPU does not wait for what the GPU still has to do.
        return tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else tensor

    return Packed(
        input_ids=move(tokens.astype(np.int64)),
        position_ids=move(np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)),
        sequence_ids=move(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)),
        cu_seqlens=move(starts),
        lengths=tuple(lengths.tolist()),
    )


def layout(lengths: np.ndarray, device: torch.device | str = "cpu") -> Packed:
    """Where sequences of these lengths, int64 [S], begin: a batch without tokens, positions and sequence numbers."""
    starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    return _layout(starts.to(device, non_blocking=True), tuple(lengths.tolist()))


def _layout(starts: torch.Tensor, lengths: tuple[int, ...]) -> Packed:
    nothing = starts.new_empty(0)
    return Packed(nothing, nothing, nothing.int(), starts, lengths)


def places_of(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The places of all elements of ranges, one range behind the other, int64; starts and lengths int64 [ranges]."""
    ends = np.cumsum(lengths)
    return np.arange(lengths.sum()) + np.repeat(starts - ends + lengths, lengths)


MAX_WASTE = 1.15
"""A matrix's cells over its real tokens: more matrices cost launches, fewer cost padding inside attention."""


def _length_grid(lengths: Sequence[int], groups: Sequence[np.ndarray], device: torch.device) -> LengthGrid:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    all_lengths = np.asarray(lengths)
    shapes, cells, real = [], [], []
    for members in groups:
        columns = np.arange(all_lengths[members].max())[None, :]
        ends = all_lengths[members][:, None]
        cells.append((starts[members][:, None] + np.minimum(columns, ends - 1)).reshape(-1))
        real.append((columns < ends).reshape(-1))
        shapes.append((len(members), columns.shape[1]))
    flat_cells, flat_real = np.concatenate(cells), np.concatenate(real)
    places = np.empty(starts[-1], dtype=np.int64)
    places[flat_cells[flat_real]] = np.flatnonzero(flat_real)
    return LengthGrid(
        shapes=tuple(shapes),
        cells=torch.from_numpy(flat_cells).to(device),
        real=torch.from_numpy(flat_real).to(device),
        complete=bool(flat_real.all()),
        places=torch.from_numpy(places).to(device),
    )


def _similar_lengths(lengths: np.ndarray) -> Iterator[np.ndarray]:
    order = np.argsort(-lengths, kind="stable")
    start, real = 0, 0
    for place, sequence in enumerate(order):
        count = place - start
        if count and (count + 1) * lengths[order[start]] > MAX_WASTE * (real + lengths[sequence]):
            yield order[start:place]
            start, real = place, 0
        real += lengths[sequence]
    yield order[start:]
