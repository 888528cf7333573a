"""Sequences end to end in one tensor, so that no padding is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from ssmrank.kernels.attention.ranges import KeyRanges, key_ranges
from ssmrank.kernels.packing import sequence_index
from ssmrank.models.length_grid import LengthGrid, length_grid, similar_lengths

if TYPE_CHECKING:
    from ssmrank.models.kept_states import KeptStates

TILE = 64
"""How many tokens of short segments attention without FlashAttention takes at once."""

TYPE_SHIFT = 24
"""A token in a sequence is its id, below 2^24, with its type in the bits above. Most tokens have type 0."""


@dataclass(frozen=True, eq=False)
class Packed:
    """S sequences with T tokens in total.

    input_ids: int64 [T]; position_ids: int64 [T], each token's position in its own sequence; sequence_ids: int32 [T],
    each token's sequence; cu_seqlens: int64 [S + 1], the start of each sequence, then T; lengths: tokens of each
    sequence, on the host; memory: S sequences for cross attention (the encoder's, for a decoder); prefix_levels: set
    if some sequences are prefixes that others continue (`models.prefix_sharing`). Then position_ids count from the
    start of the root. token_types: int64 [T], each token's type; None: all are 0. kept: set if the states of the
    sequences are kept, or if the sequences continue prefixes whose states were kept (`models.kept_states`).
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    sequence_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    lengths: tuple[int, ...]
    memory: Packed | None = None
    prefix_levels: PrefixLevels | None = None
    token_types: torch.Tensor | None = None
    kept: KeptStates | None = None

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
        """A layout of one token for each sequence, with this batch as its memory."""
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

    @cached_property
    def reach(self) -> int:
        """A number above all positions: tokens of the longest sequence, or with prefixes at least as many."""
        kept: Any = self.kept
        levels = self.prefix_levels.all if self.prefix_levels is not None else ()
        if kept is not None and not kept.keeps:
            levels = (kept.level,)
        before = [level.paths.keys.longest if level.paths is not None else 0 for level in levels]
        return max(
            (more + level.packed.longest for more, level in zip(before, levels, strict=True)), default=self.longest
        )

    @cached_property
    def key_ranges(self) -> KeyRanges:
        """For each token the tokens of its sequence, from the start of its root to the end of its segment."""
        return key_ranges(self._spans, self._paths)

    @cached_property
    def last_key_ranges(self) -> KeyRanges:
        """For one token of each sequence, with shared prefixes of each leaf, all tokens of the sequence."""
        paths = self._paths
        if self.prefix_levels is not None:
            paths = paths[self.prefix_levels.leaves[0].segments.start :]
        return key_ranges([(row, row + 1) for row in range(len(paths))], paths)

    @cached_property
    def key_ranges_of_memory(self) -> KeyRanges:
        """For each token the sequence of the memory."""
        assert self.memory is not None
        return key_ranges(self._spans, self.memory._paths)

    @property
    def _spans(self) -> list[tuple[int, int]]:
        return list(pairwise(self.cu_seqlens.tolist()))

    @property
    def _paths(self) -> list[list[tuple[int, int]]]:
        """The ranges of tokens from the start of each segment's root to the segment's end."""
        spans, paths = self._spans, list[list[tuple[int, int]]]()
        levels = self.prefix_levels.all if self.prefix_levels is not None else ()
        parents = [parent for level in levels for parent in level.all_parents]
        for span, parent in zip(spans, parents or [-1] * len(spans), strict=True):
            paths.append([span] if parent < 0 else [*paths[parent], span])
        return paths

    def clone(self, lengths: tuple[int, ...]) -> Packed:
        """A copy in tensors of its own, with other `lengths` on the host."""
        ids, positions, numbers, starts, *types = (tensor.clone() for tensor in self._tensors)
        return Packed(ids, positions, numbers, starts, lengths, token_types=types[0] if types else None)

    def copy_(self, other: Packed) -> None:
        """Copies another batch into this one's tensors; both have equally many tokens and sequences."""
        for tensor, theirs in zip(self._tensors, other._tensors, strict=True):
            tensor.copy_(theirs)

    @property
    def _tensors(self) -> tuple[torch.Tensor, ...]:
        tensors = (self.input_ids, self.position_ids, self.sequence_ids, self.cu_seqlens)
        return tensors if self.token_types is None else (*tensors, self.token_types)

    @cached_property
    def grid(self) -> LengthGrid:
        """The sequences as matrices of similar lengths."""
        return length_grid(self.lengths, self._groups, self.input_ids.device)

    @cached_property
    def grid_along_memory(self) -> LengthGrid:
        """The sequences as matrices with the same sequences, in the same order, as those of `memory.grid`."""
        assert self.memory is not None
        return length_grid(self.lengths, self.memory._groups, self.input_ids.device)

    @cached_property
    def _groups(self) -> list[np.ndarray]:
        return list(similar_lengths(np.asarray(self.lengths)))


@dataclass(frozen=True, eq=False)
class PrefixPaths:
    """What a level's segments continue: all earlier tokens of each group of siblings.

    tokens: int64 [K], indices of the batch's tokens from the root to the parent's end, group after group; keys: their
    layout, one sequence a group; queries: the layout of the level's tokens, one sequence a group; segments: the same
    with one token for each segment.
    """

    tokens: torch.Tensor
    keys: Packed
    queries: Packed
    segments: Packed


@dataclass(frozen=True, eq=False)
class PrefixLevel:
    """Neighbouring segments of a batch that can be computed together.

    segments, tokens: their places in the batch; packed: the layout of this level alone; parents: int64 [segments], the
    place of each one's parent in the batch; parents and paths are None if all segments are roots.
    """

    segments: slice
    tokens: slice
    packed: Packed
    parents: torch.Tensor | None
    paths: PrefixPaths | None

    @property
    def all_parents(self) -> list[int]:
        """The place of each segment's parent in the batch, -1 for roots."""
        return [-1] * len(self.packed.lengths) if self.parents is None else self.parents.tolist()

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
        """For each matrix of `tiles.grid` the keys that a query must not see, bool [rows, longest, longest].

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
    """The segments of a batch as shared-prefix trees, level by level.

    inner: levels of roots and branches, which other segments continue, parents before children; leaves: levels of
    segments that nothing continues; history: int64 [S, 3], indices of the tokens before each segment's start, the
    nearest first, -1 if there is none.
    """

    inner: tuple[PrefixLevel, ...]
    leaves: tuple[PrefixLevel, ...]
    history: torch.Tensor

    @property
    def all(self) -> tuple[PrefixLevel, ...]:
        """All levels in the order of computation, which is the batch's order."""
        return self.inner + self.leaves


_Batch = TypeVar("_Batch")


def moved(batch: _Batch, device: torch.device | str) -> _Batch:
    """The batch with all its tensors on a device. Copies from pinned memory are not waited for."""
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def mapped(batch: _Batch, function: Callable[[torch.Tensor], torch.Tensor]) -> _Batch:
    """The batch with the function applied to each tensor."""

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
    """Packs sequences of token ids, with their types above `TYPE_SHIFT`, each of at least one token, in order."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    tokens = np.concatenate([np.asarray(sequence) for sequence in sequences]) if len(lengths) else lengths
    return pack_tokens(tokens, lengths, device)


def pack_tokens(tokens: np.ndarray, lengths: np.ndarray, device: torch.device | str = "cpu") -> Packed:
    """Packs sequences that are already end to end; lengths: int64 [S], each at least one.

    Raises ValueError without a sequence, or for an empty one.
    """
    if len(lengths) == 0 or lengths.min() == 0:
        raise ValueError("pack needs at least one sequence, and at least one token in each")
    starts = np.concatenate([[0], np.cumsum(lengths)])

    def move(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        # From pinned memory, so that the CPU does not wait for the GPU's queued work.
        return tensor.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else tensor

    tokens = tokens.astype(np.int64)
    types = tokens >> TYPE_SHIFT
    has_types = bool(types.any())
    return Packed(
        input_ids=move(tokens & ((1 << TYPE_SHIFT) - 1) if has_types else tokens),
        position_ids=move(np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)),
        sequence_ids=move(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)),
        cu_seqlens=move(starts),
        lengths=tuple(lengths.tolist()),
        token_types=move(types) if has_types else None,
    )


def layout(lengths: np.ndarray, device: torch.device | str = "cpu") -> Packed:
    """Where sequences of these lengths, int64 [S], start: a batch without tokens, positions and sequence numbers."""
    starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    return _layout(starts.to(device, non_blocking=True), tuple(lengths.tolist()))


def _layout(starts: torch.Tensor, lengths: tuple[int, ...]) -> Packed:
    nothing = starts.new_empty(0)
    return Packed(nothing, nothing, nothing.int(), starts, lengths)


def places_of(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices of all elements of ranges, range after range, int64; starts and lengths: int64 [ranges]."""
    ends = np.cumsum(lengths)
    return np.arange(lengths.sum()) + np.repeat(starts - ends + lengths, lengths)
