"""Steps prepared by a thread while the device computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch

from ssmrank.models.packing import Packed
from ssmrank.pretraining.objectives import Task

T = TypeVar("T")


def ahead(make: Callable[[int], T], steps: Iterable[int], depth: int = 4) -> Iterator[T]:
    """`make(step)` for each step, in order, up to `depth` of them ahead of the consumer; errors come out here."""
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for step in steps:
                if not put((make(step), None)):
                    return
            put((None, None))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()


def on_device(task: Task, device: torch.device) -> tuple[Packed, torch.Tensor, torch.Tensor]:
    """A task's packed batch, places and targets; to a GPU they go from pinned memory, and nothing waits for it."""
    starts = np.concatenate([[0], np.cumsum(task.lengths)])
    sequence_ids = np.repeat(np.arange(len(task.lengths), dtype=np.int32), task.lengths)
    position_ids = np.arange(len(task.ids)) - starts[sequence_ids]

    def move(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

    packed = Packed(move(task.ids), move(position_ids), move(sequence_ids), move(starts), tuple(task.lengths.tolist()))
    return packed, move(task.places), move(task.targets)
