"""How long a thread keeps Python's global lock while another one waits for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SHORT = 2e-4


@contextmanager
def short_turns() -> Iterator[None]:
    """Lets a waiting thread have the lock after a fifth of a millisecond, not after Python's five.

    The thread that launches a batch gives the lock back at each of its hundreds of kernels. While another thread plans,
    it would wait five milliseconds for it each time, and the device would run dry.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(min(usual, _SHORT))
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
