"""Prefetching: another thread makes the next items while the current one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetched(Iterator[T], Generic[T]):
    """Items that another thread makes from now on, up to `count` of them ahead (0: all).

    Its errors are raised where the items are taken. As a context it stops the thread at its end, after the item that is
    being made.
    """

    def __init__(self, items: Iterable[T], count: int = 0) -> None:
        self._made: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(count)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._make, args=(items,), name="ssmrank-prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        """Waits for the next item."""
        item = self._made.get()
        if item is None or isinstance(item, BaseException):
            self._made.put(item)  # for another call: nothing is made any more
            if item is None:
                raise StopIteration
            raise item
        return item[0]

    def __enter__(self) -> Prefetched[T]:
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Stops the thread and waits for it."""
        self._stop.set()
        self._thread.join()

    def _make(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                if not self._put((item,)):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: tuple[T] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def prefetch(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """Yields the items while another thread makes up to `count` of them ahead; its errors are raised here."""
    with Prefetched(items, count) as made:
        yield from made
