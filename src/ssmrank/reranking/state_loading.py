"""Whether it takes longer to load a document's state from disk or to compute it, by what both cost on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssmrank.io.sizes import show_bytes
from ssmrank.models.kept_states import StatePool
from ssmrank.reranking.document_prefixes import Prefix
from ssmrank.reranking.state_folder import StateFolder

Loading = Literal["measured", "always", "never"]
"""When states are loaded: where it is faster by measurement, wherever they are on disk, or never."""

_LOADED = 16
"""How many states are loaded to measure it."""

_COMPUTED = 512
"""How many tokens are computed to measure it."""


@dataclass(frozen=True)
class LoadingRule:
    """What loading and computing cost. loading: bytes a second; computing: tokens a second."""

    loading: float
    computing: float

    def loads(self, size: int, tokens: int) -> bool:
        """Whether a state of so many bytes is loaded, of a prefix of so many tokens."""
        return size / self.loading < tokens / self.computing

    def __str__(self) -> str:
        return f"{show_bytes(self.loading)} a second loaded, {self.computing:,.0f} tokens a second computed"


def loading_rule(
    loading: Loading, folder: StateFolder, pool: StatePool, max_length: int, compute: Callable[[list[Prefix]], None]
) -> LoadingRule:
    """The rule. If it is measured, some states are loaded into the pool, and some tokens computed.

    pool: for some states; compute: runs a pass over prefixes.
    """
    if loading == "always":
        return LoadingRule(math.inf, 1.0)
    if loading == "never" or not len(folder):
        return LoadingRule(1e-300, 1.0)
    lengths = [max_length] * min(_LOADED, max(1, _COMPUTED // max_length))
    prefixes = [Prefix(b"", np.zeros(length, dtype=np.int32)) for length in lengths]
    compute(prefixes)  # what compiles for the first pass does not count
    computing = _seconds(lambda: compute(prefixes))
    keys = folder.keys()[:: max(1, len(folder) // _LOADED)][:_LOADED]
    size = sum(map(folder.size, keys))

    def load() -> None:
        for key in keys:
            prefix = Prefix(key, np.zeros(folder.tokens(key), dtype=np.int32))
            slot = pool.take(len(prefix.tokens))
            folder.load(prefix, pool, slot)
            pool.give_back(slot)

    return LoadingRule(size / _seconds(load), sum(lengths) / computing)


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return max(time.perf_counter() - begin, 1e-9)
