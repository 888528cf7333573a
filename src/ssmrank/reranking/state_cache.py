"""States of documents in memory, within a budget of bytes; the least recently used one goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ssmrank.models.kept_states import StatePool
from ssmrank.reranking.document_prefixes import Prefix


class _Entry(NamedTuple):
    slot: int
    bytes: int


class StateCache:
    """The slots of prefixes' states in a pool, by the prefixes' keys. Not for several threads at once.

    bytes: of all states; evictions: how many states had to go.
    """

    def __init__(self, pool: StatePool, budget: int) -> None:
        self.pool, self.budget = pool, budget
        self.bytes = self.evictions = 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def slot(self, key: bytes) -> int:
        """The slot of a state that is there."""
        return self._entries[key].slot

    def touch(self, keys: Iterable[bytes]) -> None:
        """Notes that states are used, the last one most recently."""
        for key in keys:
            self._entries.move_to_end(key)

    def take(self, prefixes: Sequence[Prefix]) -> list[int]:
        """Slots for the states of new prefixes, which `add` or `give_back` must follow.

        States that are not the most recently used ones are evicted. Raises IndexError if the budget is too small.
        """
        sizes = [self.pool.bytes_of(len(prefix.tokens)) for prefix in prefixes]
        while self.bytes + sum(sizes) > self.budget and self._entries:
            _, entry = self._entries.popitem(last=False)
            self.pool.give_back(entry.slot)
            self.bytes -= entry.bytes
            self.evictions += 1
        return [self.pool.take(len(prefix.tokens)) for prefix in prefixes]

    def clear(self) -> None:
        """Forgets all states."""
        for entry in self._entries.values():
            self.pool.give_back(entry.slot)
        self._entries.clear()
        self.bytes = 0

    def add(self, prefixes: Sequence[Prefix], slots: Sequence[int]) -> None:
        """Adds states that were written to their slots."""
        for prefix, slot in zip(prefixes, slots, strict=True):
            size = self.pool.bytes_of(len(prefix.tokens))
            self._entries[prefix.key] = _Entry(slot, size)
            self.bytes += size

    def give_back(self, slots: Iterable[int]) -> None:
        """Makes taken slots free again, whose states could not be written."""
        for slot in slots:
            self.pool.give_back(slot)

    def waves(self, prefixes: Sequence[Prefix]) -> list[list[Prefix]]:
        """The prefixes in groups that each fit into the budget; those whose states are there come first."""
        ordered = sorted(prefixes, key=lambda prefix: prefix.key not in self._entries)
        waves: list[list[Prefix]] = [[]]
        filled = 0
        for prefix in ordered:
            size = self.pool.bytes_of(len(prefix.tokens))
            if waves[-1] and filled + size > self.budget:
                waves.append([])
                filled = 0
            waves[-1].append(prefix)
            filled += size
        return waves
