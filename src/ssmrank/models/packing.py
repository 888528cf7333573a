"""Sequences laid end to end, so that no padding is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from ssmrank.kernels.packing import sequence_index
from ssmrank.models.length_grid import LengthGrid, length_grid, similar_lengths

TILE = 64
"""Tokens of short segments that attention without FlashAttention takes at once."""


@dataclass(frozen=True, eq=False)
class Packed:
    """S sequences of T tokens in all.

    input_ids: int64 [T]; position_ids: int64 [T], each token's place in its own sequence; sequence_ids: int32 [T];
    cu_seqlens: int64 [S + 1], where each sequence starts and, last, T; lengths: the same on the host; memory: as many
    sequences, which these attend to across (a decoder's encoder); prefix_levels: set where some of the sequences are
    prefixes that others continue (`models.prefix_sharing`); position_ids then count from the start of the first prefix.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    sequence_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    lengths: tuple[int, ...]
    memory: Packed | None = None
    prefix_levels: PrefixLevels | None = None

    @property
    def first(self) -> torch.Tensor:
        """Index of each sequence's first token, int64 [S]."""
        return self.cu_seqlens[:-1]

    @property
    def last(self) -> torch.Tensor:
        """Index of each sequence's last token, int64 [S]; with shared prefixes, of each leaf."""
        ends = self.cu_seqlens[1:] - 1
        return ends if self.prefix_levels is None else ends[self.prefix_levels.leaves[0].segments.start :]

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
        return length_grid(self.lengths, self._groups, self.input_ids.device)

    @cached_property
    def grid_along_memory(self) -> LengthGrid:
        """The sequences as matrices, one for each of `memory.grid`'s and of the same sequences in the same order."""
        assert self.memory is not None
        return length_grid(self.lengths, self.memory._groups, self.input_ids.device)

    @cached_property
    def _groups(self) -> list[np.ndarray]:
        return list(similar_lengths(np.asarray(self.lengths)))


@dataclass(frozen=True, eq=False)
class PrefixPaths:
    """What a level's segments continue: for each group of neighbours with the same parent, all tokens before it.

    tokens: int64 [K], group after group, the batch's tokens from the root to the parent's end; keys: the layout of
    these; queries: the layout of the level's tokens with one sequence a group; segments: the same with one token for
    each segment.
    """

    tokens: torch.Tensor
    keys: Packed
    queries: Packed
    segments: Packed


@dataclass(frozen=True, eq=False)
class PrefixLevel:
    """Neighbouring segments of a batch that can be computed together.

    segments, tokens: their places in the batch; packed: the layout of this level alone; parents: int64 [segments], the
    place in the batch of the segment that each continues, None where all are roots; paths: None as well.
    """

    segments: slice
    tokens: slice
    packed: Packed
    parents: torch.Tensor | None
    paths: PrefixPaths | None

    @cached_property
    def tiles(self) -> Packed:
        """The level's tokens as sequences of at most `TILE` tokens that hold whole segments, or one longer segment."""
        lengths = [0]
        for length in self.packed.lengths:
            if lengths[-1] and lengths[-1] + length > TILE:
                lengths.append(0)
            lengths[-1] += length
        return layout(np.array(lengths), self.packed.cu_seqlens.device)

    @cached_property
    def hidden(self) -> list[torch.Tensor]:
        """For each matrix of `tiles.grid`, bool [rows, longest, longest]: keys that a query does not attend to.

        These are later tokens and tokens of other segments.
        """
        masks, first = [], 0
        tokens = self.tokens.stop - self.tokens.start
        owners = self.tiles.grid.spread(sequence_index(self.packed.cu_seqlens, tokens))
        for rows, longest in self.tiles.grid.shapes:
            own = owners[first : first + rows * longest].view(rows, longest)
            later = torch.ones(longest, longest, dtype=torch.bool, device=own.device).triu(1)
            masks.append((own[:, :, None] != own[:, None, :]) | later)
            first += rows * longest
        return masks


@dataclass(frozen=True, eq=False)
class PrefixLevels:
    """The segments of a batch as trees of shared prefixes, level by level.

    inner: levels of roots and branches, which other segments continue, parents before children; leaves: levels of
    segments that nothing continues; history: int64 [S, 3], the tokens before each segment's start, the nearest first,
    -1: none.
    """

    inner: tuple[PrefixLevel, ...]
    leaves: tuple[PrefixLevel, ...]
    history: torch.Tensor

    @property
    def all(self) -> tuple[PrefixLevel, ...]:
        """All levels in the order in which they are computed, which is that of the batch."""
        return self.inner + self.leaves


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
