"""Work that a thread does before it is asked for, and how it lets another go first."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_PAUSE = 5e-5
"""Seconds: a planning thread that pauses so long for each document takes three times as long, and the one that hands
orders to the GPU half of the time that it takes beside one which does not pause."""

_first = 0
"""How many threads go first."""


def ahead(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """The items, up to `count` of them made by another thread before they are asked for; its errors come out here."""
    made: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(count)
    stop = threading.Event()

    def put(item: tuple[T] | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item,)):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="ssmrank-ahead", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stop.set()
        thread.join()


@contextmanager
def goes_first() -> Iterator[None]:
    """While a device waits for orders: Python runs one thread at a time, and each call of torch offers others its turn.

    Those that make something ahead decline it by `give_way`.
    """
    global _first
    _first += 1
    try:
        yield
    finally:
        _first -= 1


def give_way() -> None:
    """For threads that make something ahead, now and then: a moment's pause while another one goes first."""
    if _first:
        time.sleep(_PAUSE)
