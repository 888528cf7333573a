"""Contexts that restrain Python's garbage collector, which is slow with hundreds of thousands of small objects."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_frozen = 0
"""How many `gc_frozen` contexts are open."""


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pauses the collector while many objects are made.

    It would visit all of them again and again, which takes 2/3 of the time of a plan. It does not visit them when it
    resumes either, which would take a third of the time to read a run.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            # Freezing and unfreezing moves the new objects to the oldest generation without visiting them.
            gc.freeze()
            if not _frozen:
                gc.unfreeze()
            gc.enable()


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Restricts collections to objects made inside the context.

    A full collection takes a tenth of a second, during which no kernel would be launched.
    """
    global _frozen
    _frozen += 1
    gc.freeze()
    try:
        yield
    finally:
        _frozen -= 1
        if not _frozen:
            gc.unfreeze()
