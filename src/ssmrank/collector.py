"""Python's garbage collector, kept away from hundreds of thousands of small objects that live on anyway."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_blind = 0
"""How many `collector_blind_to_the_past` there are."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """While many objects are made: the collector would look through all of them again and again (2/3 of a plan).

    Nor does it look through them once when it goes on (a third of a run's reading).
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            # On a way that looks at none of them, to the objects that are seldom looked at.
            gc.freeze()
            if not _blind:
                gc.unfreeze()
            gc.enable()


@contextmanager
def collector_blind_to_the_past() -> Iterator[None]:
    """While launches must not wait: collections look at new objects only, not for a tenth of a second at all."""
    global _blind
    _blind += 1
    gc.freeze()
    try:
        yield
    finally:
        _blind -= 1
        if not _blind:
            gc.unfreeze()
