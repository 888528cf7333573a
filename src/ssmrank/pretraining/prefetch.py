"""Tasks on their way to the device."""

from __future__ import annotations

import numpy as np
import torch

from ssmrank.models.packing import Packed
from ssmrank.pretraining.objectives import Task


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
