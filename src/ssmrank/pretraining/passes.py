"""Forward and backward passes of language models, on a GPU as CUDA graphs.

Steps have the same number of tokens but not of texts, and a graph needs fixed shapes. The padding at a step's end is
therefore cut into several sequences, so that the number of sequences is a multiple of a constant. The places that
predict are filled up with places whose target is ignored.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ssmrank.kernels.cross_entropy import IGNORED
from ssmrank.models.packing import Packed
from ssmrank.models.precision import Precision, autocast
from ssmrank.pretraining.model import LanguageModel
from ssmrank.pretraining.objectives import Task
from ssmrank.training.captured import CapturedPasses, may_capture
from ssmrank.training.graphs import round_up

_SEQUENCES = 16
"""The number of sequences is brought to a multiple of this."""


class Passes:
    """`passes(packed, places, targets, share=...)` adds the gradients of `share` times the sum of a piece's losses.

    It returns that product, on the device. Where `uses_graphs`, gradients must be set to zero between steps, not to
    None, because the graphs write to the same tensors.
    """

    def __init__(
        self, model: LanguageModel, precision: Precision, device: torch.device, longest: int, *, graphs: bool = True
    ) -> None:
        """longest: tokens of the longest text. graphs: False to run without CUDA graphs."""
        self._model, self._precision, self._device, self._longest = model, precision, device, longest
        wanted = graphs and may_capture(model.backbone, precision, device)
        self._captured = CapturedPasses(self._run, device) if wanted else None

    @property
    def uses_graphs(self) -> bool:
        """Whether passes of a shape that repeats run as CUDA graphs."""
        return self._captured is not None

    def __call__(self, packed: Packed, places: torch.Tensor, targets: torch.Tensor, *, share: float) -> torch.Tensor:
        """Adds the gradients of a piece; the tensors are on the device, as `LanguageModel` takes them."""
        factor = torch.full((), share, device=self._device)
        if self._captured is None:
            return self._run(packed, places, targets, factor)
        shape = len(packed.input_ids), len(packed.lengths), len(places)
        return self._captured(shape, self._longest, packed, places, targets, factor)

    def _run(self, packed: Packed, places: torch.Tensor, targets: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        with autocast(self._precision, self._device):
            loss = self._model(packed, places, targets) * factor
        loss.backward()
        return loss.detach()


def filled_up(task: Task) -> Task:
    """The same task, padded to one of a few shapes; its losses are the same."""
    lengths = task.lengths
    missing = -len(lengths) % _SEQUENCES
    predicting = task.places[-1] if len(task.places) else -1
    # The last sequence is padding, and may be cut, only if it predicts nothing.
    padding = int(lengths[-1]) if predicting < len(task.ids) - lengths[-1] else 0
    if 0 < missing < padding:
        lengths = np.concatenate([lengths[:-1], np.full(missing, 1), [padding - missing]]).astype(np.int64)
    rows = round_up(len(task.places)) - len(task.places)
    return replace(
        task,
        lengths=lengths,
        places=np.concatenate([task.places, np.zeros(rows, np.int64)]),
        targets=np.concatenate([task.targets, np.full(rows, IGNORED, np.int64)]),
    )
