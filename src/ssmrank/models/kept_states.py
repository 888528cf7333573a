"""States of prefixes that stay in memory between forward passes.

The state of a causal model at the end of a prefix is, for each layer, the last inputs of the convolution and the state
of the scan (Mamba), or keys and values of all tokens (attention). A pass over prefixes keeps them in a `StatePool`. A
later pass over what follows the prefixes starts from them, and computes only its own tokens. Mixers find both in
`Packed.kept`.

Within one forward pass, `models.prefix_sharing` does the same without keeping anything.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssmrank.kernels.simd import LANES
from ssmrank.models.backbones import scored_forward
from ssmrank.models.packing import Packed, PrefixLevel, PrefixPaths, layout, moved, pack

PROBE_TOKENS = 4
"""How many tokens the pass has that finds the shapes of a model's states."""


@dataclass(frozen=True)
class StateShapes:
    """The shapes of one prefix's state, by the number of the layer.

    scans: of the scan's state; tails: of the convolution's last inputs, (tokens, channels); keys: of a token's keys,
    and of its values, (heads, head size); key_dtype: theirs.
    """

    scans: dict[int, tuple[int, ...]] = field(default_factory=dict)
    tails: dict[int, tuple[int, int]] = field(default_factory=dict)
    keys: dict[int, tuple[int, int]] = field(default_factory=dict)
    key_dtype: torch.dtype = torch.float32

    @property
    def fixed(self) -> int:
        """How many numbers do not depend on the prefix's length."""
        return sum(map(prod, self.scans.values())) + sum(map(prod, self.tails.values()))

    @property
    def each_token(self) -> int:
        """How many numbers each token of the prefix adds."""
        return 2 * sum(map(prod, self.keys.values()))


class KeptStates:
    """What the mixers of a pass keep, or start from. Mixers that keep call `keep_...`; the others read."""

    keeps: bool

    def keep_tail(self, layer: int, x: Tensor, taps: int) -> None:
        """Keeps the last `taps` - 1 inputs of each sequence's convolution, x: `[T, C]`."""
        raise NotImplementedError

    def keep_scan(self, layer: int, final: Tensor) -> None:
        """Keeps the final state of each sequence's scan, `[S, ...]`."""
        raise NotImplementedError

    def keep_keys(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keeps keys and values of all tokens, `[T, heads, head size]`."""
        raise NotImplementedError


class _Shapes(KeptStates):
    """Notes the shapes of what it is given, from a batch of one sequence."""

    keeps = True

    def __init__(self) -> None:
        self.found = StateShapes()

    def keep_tail(self, layer: int, x: Tensor, taps: int) -> None:
        self.found.tails[layer] = taps - 1, x.shape[1]

    def keep_scan(self, layer: int, final: Tensor) -> None:
        self.found.scans[layer] = tuple(final.shape[1:])

    def keep_keys(self, layer: int, k: Tensor, v: Tensor) -> None:
        assert k.shape == v.shape
        self.found.keys[layer] = k.shape[1], k.shape[2]
        self.found = replace(self.found, key_dtype=v.dtype)


def state_shapes(backbone: Any, device: torch.device) -> StateShapes:
    """The shapes of a causal backbone's states, in the dtypes of the current autocast; runs a pass of a few tokens."""
    shapes = _Shapes()
    scored_forward(backbone, replace(pack([[0] * PROBE_TOKENS], device), kept=shapes), "last")
    return shapes.found


class StatePool:
    """Memory for the states of prefixes, on the device of the model.

    States are numbered by slots. Those of scans and convolutions have the same size for every prefix. All slots of them
    are one tensor, so that kernels read them in place. On a CPU, memory that was never written to is not used. Keys and
    values are a tensor for each prefix.

    dtype: what states are stored in; None: as the model computes them, states of scans and convolutions in float32.
    slots: how many states of fixed size there is room for. turned: whether the states of scans are stored with the last
    two dimensions swapped, as the loops for CPUs read and write them, and keys and values head by head; so on a CPU.
    """

    def __init__(self, shapes: StateShapes, slots: int, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self.shapes, self.device = shapes, device
        self.fixed_dtype = dtype or torch.float32
        self.key_dtype = dtype if dtype is not None and dtype.itemsize < shapes.key_dtype.itemsize else shapes.key_dtype
        self._places = {layer: place for place, layer in enumerate(shapes.scans)}
        self._keys: dict[int, Tensor] = {}
        self._tokens: dict[int, int] = {}
        sizes = [2 * prod(shape) for shape in shapes.keys.values()]
        self._key_begins = dict(zip(shapes.keys, accumulate([0, *sizes]), strict=False))
        self._state: tuple[int, ...] = ()
        self._unit, self._units, self._tails_begin = 1, 0, 0
        if shapes.scans:
            # A slot is a row of units, one for each layer's state; the last ones hold the convolutions' inputs. So the
            # states of all layers and slots are one contiguous tensor of states, which kernels index by unit.
            [self._state] = set(shapes.scans.values())
            self._unit = prod(self._state)
            self._tails_begin = self._unit * len(shapes.scans)
            self._units = len(shapes.scans) - (-sum(map(prod, shapes.tails.values())) // self._unit)
        self.turned = device.type == "cpu"
        self._memory = _memory((slots * self._units, self._unit), self.fixed_dtype, device)
        self._free = list(range(slots - 1, -1, -1))
        self._next = slots

    def bytes_of(self, tokens: int) -> int:
        """The bytes of the state of a prefix of so many tokens."""
        per_token = self.shapes.each_token * self.key_dtype.itemsize
        return self._units * self._unit * self.fixed_dtype.itemsize + tokens * per_token

    def stored_bytes(self, tokens: int) -> int:
        """The same without what only fills a slot: the bytes of `parts`."""
        per_token = self.shapes.each_token * self.key_dtype.itemsize
        return self.shapes.fixed * self.fixed_dtype.itemsize + tokens * per_token

    def take(self, tokens: int) -> int:
        """A free slot for the state of a prefix of so many tokens. Raises IndexError if there is none."""
        if self.shapes.scans:
            slot = self._free.pop()
        else:
            slot, self._next = self._next, self._next + 1
        self._tokens[slot] = tokens
        if self.shapes.keys:
            self._keys[slot] = torch.empty(self.shapes.each_token * tokens, dtype=self.key_dtype, device=self.device)
        return slot

    def give_back(self, slot: int) -> None:
        """Makes a slot free again."""
        del self._tokens[slot]
        self._keys.pop(slot, None)
        if self.shapes.scans:
            self._free.append(slot)

    def keeping(self, packed: Packed, slots: Sequence[int]) -> Packed:
        """A batch of prefixes, on the device, whose states are kept in these slots."""
        return replace(packed, kept=_Keeping(self, packed, slots))

    def continuing(self, packed: Packed, slots: Sequence[int]) -> Packed:
        """A batch of sequences, on the device, that continue the prefixes in these slots.

        Sequences of one slot must be neighbours.
        """
        before = np.array([self._tokens[slot] for slot in slots], dtype=np.int64)
        shift = torch.from_numpy(np.repeat(before, packed.lengths)).to(self.device)
        return replace(
            packed, position_ids=packed.position_ids + shift, kept=Continuing(self, packed, slots, self.device)
        )

    def parts(self, slot: int) -> list[Tensor]:
        """The memory of a slot's state, as flat tensors: what the scans and convolutions keep, then keys and values."""
        fixed = [self._slot(slot)[: self.shapes.fixed]] if self.shapes.scans else []
        return fixed + ([self._keys[slot]] if self.shapes.keys else [])

    def write_parts(self, slot: int, parts: Sequence[Tensor], turned: bool) -> None:
        """Writes a slot's state from tensors like those of `parts`, of any floating dtype and on any device.

        turned: whether they are stored as a pool on a CPU stores them.
        """
        for own, part in zip(self.parts(slot), parts, strict=True):
            own.copy_(part)
        if turned == self.turned:
            return
        if self.shapes.scans:
            *rest, width, states = self._state
            swapped = (states, width) if turned else (width, states)
            theirs = parts[0][: self._tails_begin].view(-1, *rest, *swapped)
            self._slot(slot)[: self._tails_begin].copy_(theirs.mT.flatten())
        for layer in self.shapes.keys:
            for own, part in zip(
                self._pair(slot, layer), self._pair_of(parts[-1], self._tokens[slot], layer, turned), strict=True
            ):
                own.copy_(part)

    def _pair(self, slot: int, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, each [tokens, heads, head size]."""
        return self._pair_of(self._keys[slot], self._tokens[slot], layer, self.turned)

    def _pair_of(self, keys: Tensor, tokens: int, layer: int, turned: bool) -> tuple[Tensor, Tensor]:
        heads, size = self.shapes.keys[layer]
        begin, count = self._key_begins[layer] * tokens, 2 * heads * size * tokens
        own = keys[begin : begin + count]
        k, v = own.view(2, heads, tokens, size).transpose(1, 2) if turned else own.view(2, tokens, heads, size)
        return k, v

    def _slot(self, slot: int) -> Tensor:
        return self._memory[slot * self._units : (slot + 1) * self._units].view(-1)

    def _states(self) -> Tensor:
        """All units as states, in the order of dimensions of the model."""
        *rest, width, states = self._state
        return self._memory.view(-1, *rest, states, width).mT if self.turned else self._memory.view(-1, *self._state)

    def _rows(self, layer: int, slots: Tensor) -> Tensor:
        return slots * self._units + self._places[layer]

    def _tails(self, layer: int) -> Tensor:
        """A layer's inputs of the convolution in all slots, [slots, taps - 1, channels]."""
        begin = self._tails_begin
        for other, shape in self.shapes.tails.items():
            if other == layer:
                break
            begin += prod(shape)
        taps, channels = self.shapes.tails[layer]
        whole = self._memory.view(-1, self._units * self._unit)
        return whole[:, begin : begin + taps * channels].unflatten(1, (taps, channels))


class _Keeping(KeptStates):
    keeps = True

    def __init__(self, pool: StatePool, packed: Packed, slots: Sequence[int]) -> None:
        self._pool, self._packed, self._numbers = pool, packed, slots
        self._slots = torch.tensor(slots, device=pool.device)

    def keep_tail(self, layer: int, x: Tensor, taps: int) -> None:
        rows, known = self._last_rows(taps - 1)
        last = torch.where(known[..., None], x.index_select(0, rows.view(-1)).unflatten(0, rows.shape), 0)
        self._pool._tails(layer)[self._slots] = last.to(self._pool.fixed_dtype)

    def keep_scan(self, layer: int, final: Tensor) -> None:
        rows = self._pool._rows(layer, self._slots)
        states = self._pool._states()
        if self._pool.turned:
            states, final = states.mT, final.mT
        states.index_copy_(0, rows, final.to(self._pool.fixed_dtype))

    def keep_keys(self, layer: int, k: Tensor, v: Tensor) -> None:
        lengths = self._packed.lengths
        for slot, own_k, own_v in zip(self._numbers, k.split(lengths), v.split(lengths), strict=True):
            for kept, own in zip(self._pool._pair(slot, layer), (own_k, own_v), strict=True):
                kept.copy_(own)

    def _last_rows(self, count: int) -> tuple[Tensor, Tensor]:
        """The last `count` tokens of each sequence, int64 [S, count], and whether the sequence has as many."""
        ends = self._packed.cu_seqlens[1:, None]
        rows = ends - torch.arange(count, 0, -1, device=ends.device)
        known = rows >= self._packed.cu_seqlens[:-1, None]
        return rows.clamp(min=0), known


class Continuing(KeptStates):
    """The states that the sequences of a batch start from.

    level: the sequences as a level of segments that continue others; the tokens of their paths are not in the batch.
    """

    keeps = False

    def __init__(self, pool: StatePool, packed: Packed, slots: Sequence[int], device: torch.device) -> None:
        self._pool, self._packed = pool, packed
        numbers = np.asarray(slots)
        firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
        self._prefixes = numbers[firsts].tolist()
        self._groups = np.diff(np.append(firsts, len(numbers)))
        self._slots = torch.from_numpy(numbers[firsts]).to(device)
        self._owners = torch.from_numpy(np.repeat(np.arange(len(firsts)), self._groups)).to(device)
        self._buffers: dict[tuple[Any, ...], Tensor] = {}
        # The loops for CPUs read float32 states in place. Others would copy the states of all slots, so those that are
        # needed are gathered first. So would Mamba-1's loops with channels that do not fill vectors.
        whole_vectors = len(pool._state) != 2 or pool._state[0] % LANES == 0
        self._in_place = pool.turned and pool.fixed_dtype == torch.float32 and whole_vectors

    def scan(self, layer: int) -> tuple[Tensor, Tensor]:
        """States of scans, and the row of them that each sequence begins with, int64 [S]."""
        pool = self._pool
        states, rows = pool._states(), pool._rows(layer, self._slots)
        if self._in_place:
            return states, rows[self._owners]
        turned = states.mT if pool.turned else states
        chosen = turned.index_select(0, rows).float()
        return chosen.mT if pool.turned else chosen, self._owners

    def tail(self, layer: int) -> Tensor:
        """The last inputs of each sequence's prefix, [S, taps - 1, channels]."""
        return self._pool._tails(layer).index_select(0, self._slots).float().index_select(0, self._owners)

    def convolution(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a convolution with history computes: inputs with those of the prefixes after them, starts, history."""
        tails = self._pool._tails(layer).index_select(0, self._slots).to(x.dtype)
        return torch.cat([x, tails.flatten(0, 1)]), *self._history

    @cached_property
    def _history(self) -> tuple[Tensor, Tensor]:
        starts, taps = self._packed.cu_seqlens, next(iter(self._pool.shapes.tails.values()))[0]
        tokens = self._packed.input_ids.shape[0]
        end = starts.new_tensor([tokens + taps * len(self._slots)])
        nearest_first = torch.arange(taps - 1, -1, -1, device=starts.device)
        history = tokens + taps * self._owners[:, None] + nearest_first
        nothing = history.new_full((1, taps), -1)
        return torch.cat([starts, end]), torch.cat([history, nothing])

    def keys(self, layer: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of each prefix, `[tokens, heads, head size]`, in the order of the sequences."""
        pairs = [self._pool._pair(slot, layer) for slot in self._prefixes]
        return [k.to(dtype) for k, _ in pairs], [v.to(dtype) for _, v in pairs]

    def padded_keys(self, layer: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Keys and values of prefixes of similar length, and which keys are padding.

        Yields, for each matrix of `grid_along_memory` of the level's groups, keys and values `[prefixes, heads,
        longest, head size]`, which the next layer overwrites, and bool `[prefixes, 1, longest]`, None if no key is
        padding.
        """
        heads, size = self._pool.shapes.keys[layer]
        for members, hidden in self._padding:
            shape = (2, len(members), heads, hidden.shape[2], size)
            own = (members[0], *shape, dtype)
            if own not in self._buffers:
                self._buffers[own] = torch.zeros(shape, dtype=dtype)
            k, v = self._buffers[own]
            pairs = [self._pool._pair(self._prefixes[member], layer) for member in members]
            for buffer, kept in ((k, [pair[0] for pair in pairs]), (v, [pair[1] for pair in pairs])):
                places = [row[:, : len(x)] for row, x in zip(buffer.unbind(0), kept, strict=True)]
                torch._foreach_copy_(places, [x.transpose(0, 1) for x in kept])
            yield k, v, hidden if hidden.any() else None

    @cached_property
    def _padding(self) -> list[tuple[list[int], Tensor]]:
        """Groups of prefixes of similar length, and which of their keys are padding."""
        assert self.level.paths is not None
        lengths = torch.tensor(self.level.paths.keys.lengths)
        groups = [torch.from_numpy(members) for members in self.level.paths.keys._groups]
        return [
            (members.tolist(), (torch.arange(int(lengths[members].max())) >= lengths[members, None])[:, None])
            for members in groups
        ]

    @cached_property
    def level(self) -> PrefixLevel:
        """The sequences as segments of one level."""
        packed = self._packed
        bounds = np.concatenate([[0], np.cumsum(self._groups)])
        ends = np.concatenate([[0], np.cumsum(packed.lengths)])[bounds]
        prefixes = np.array([self._pool._tokens[slot] for slot in self._prefixes])
        nothing = torch.empty(0, dtype=torch.int64)
        keys, queries, segments = (layout(sizes) for sizes in (prefixes, np.diff(ends), self._groups))
        along = [replace(packed, memory=keys) for packed in (queries, segments)]
        paths = PrefixPaths(nothing, keys, *along)
        own = layout(np.asarray(packed.lengths))
        level = PrefixLevel(slice(0, len(packed.lengths)), slice(0, int(ends[-1])), own, None, paths)
        return moved(level, self._pool.device)


def _memory(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory without content. On a CPU it is given in large pages where the system has them.

    A first write to each small page would take as long as several copies of the page.
    """
    if device.type != "cpu" or not prod(shape) or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype, device=device)
    content = mmap.mmap(-1, prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        content.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(content, dtype=dtype).view(shape)
