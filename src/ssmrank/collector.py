"""Python's garbage collector, kept away from hundreds of thousands of small objects that live on anyway."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """While many objects are made: the collector would look through all of them again and again (2/3 of a plan)."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@contextmanager
def collector_blind_to_the_past() -> Iterator[None]:
    """While launches must not wait: collections look at new objects only, not for a tenth of a second at all."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
