"""Python's garbage collector costs a lot where hundreds of thousands of small objects live; these contexts hold it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_frozen = 0
"""How many `gc_frozen` contexts are open."""


@contextmanager
def gc_paused() -> Iterator[None]:
    """No collection while many objects are made; collections would visit all of them again and again (2/3 of a plan).

    The objects are not visited when the collector resumes either (a third of the time to read a run).
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            # Freezing and unfreezing moves the new objects to the oldest generation without a visit to any of them.
            gc.freeze()
            if not _frozen:
                gc.unfreeze()
            gc.enable()


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Collections visit only objects made inside: a full one takes a tenth of a second, and launches would wait."""
    global _frozen
    _frozen += 1
    gc.freeze()
    try:
        yield
    finally:
        _frozen -= 1
        if not _frozen:
            gc.unfreeze()
