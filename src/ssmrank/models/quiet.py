"""Calls transformers in silence, and in one thread at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()
# A process forked in the middle of a load would keep what transformers had replaced, and a lock that nobody releases.
os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers logs only errors and shows no progress bars; the caller's settings are restored.

    Other threads wait: while transformers makes or reads a model, it replaces methods of its classes, torch's default
    dtype and torch's initialisations, and two threads would put back each other's replacements.
    """
    from transformers.utils import logging

    with _LOCK:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
