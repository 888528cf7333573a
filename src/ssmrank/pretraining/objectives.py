"""Objectives of language models: the next token, or masked tokens (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ssmrank.errors import UserError
from ssmrank.models.architectures import architecture_of
from ssmrank.models.packing import Packed
from ssmrank.pretraining.steps import Step


@dataclass(frozen=True)
class Task:
    """The tokens of a step, and what is predicted from them.

    ids: int64 [T], sequences laid end to end.
    lengths: int64 [S], of the sequences.
    places: int64 [M], ascending, of the tokens whose hidden states predict.
    targets: int64 [M], the ids to predict.
    """

    ids: np.ndarray
    lengths: np.ndarray
    places: np.ndarray
    targets: np.ndarray


Objective = Callable[[Step, np.random.Generator], Task]


def next_token(step: Step, generator: np.random.Generator) -> Task:
    """Each token of a text predicts the next one, and the last predicts nothing. `generator` is not used."""
    ends = np.cumsum(step.lengths)
    predicts = np.ones(len(step.ids), dtype=bool)
    predicts[ends - 1] = False
    predicts[step.tokens :] = False
    places = np.flatnonzero(predicts)
    return Task(step.ids, step.lengths, places, step.ids[places + 1])


@dataclass(frozen=True)
class MaskedTokens:
    """Predicts a share of the tokens from both sides; special tokens are never predicted.

    Of the predicted tokens, 80% are replaced by [MASK], 10% by a random ordinary token, and 10% stay.
    """

    share: float
    special: int
    """Ids below this are special tokens."""
    mask: int
    vocabulary: int

    def __call__(self, step: Step, generator: np.random.Generator) -> Task:
        """Draws the tokens to predict and their replacements."""
        ordinary = np.flatnonzero(step.ids >= self.special)
        count = max(1, round(self.share * len(ordinary)))
        places = np.sort(generator.permutation(ordinary)[:count])
        ids = step.ids.copy()
        fate = generator.random(count)
        ids[places[fate < 0.8]] = self.mask
        changed = places[(fate >= 0.8) & (fate < 0.9)]
        ids[changed] = generator.integers(self.special, self.vocabulary, len(changed))
        return Task(ids, step.lengths, places, step.ids[places])


def objective_of(model_type: str, share: float, special: int, mask: int, vocabulary: int) -> Objective:
    """The objective of an architecture: causal ones predict the next token, others masked tokens.

    Raises UserError where the architecture has no masked language model.
    """
    architecture = architecture_of(model_type)
    if architecture.causal:
        return next_token
    if architecture.masked_head is None:
        raise UserError(f"config: model_type {model_type} cannot be pretrained here; it has no masked language model")
    return MaskedTokens(share, special, mask, vocabulary)


def cut(task: Task, token_budget: int) -> list[Task]:
    """Cuts a task into pieces of whole sequences, at most `token_budget` tokens each.

    Pieces that predict nothing are left out.
    """
    from ssmrank.training.sampler import micro_batches

    if len(task.ids) <= token_budget:
        return [task]
    ends = np.cumsum(task.lengths)
    pieces = []
    for members in micro_batches(task.lengths.tolist(), token_budget):
        first, last = int(ends[members[0]] - task.lengths[members[0]]), int(ends[members[-1]])
        low, high = np.searchsorted(task.places, [first, last])
        if low < high:
            pieces.append(
                Task(
                    task.ids[first:last],
                    task.lengths[members[0] : members[-1] + 1],
                    task.places[low:high] - first,
                    task.targets[low:high],
                )
            )
    return pieces


def on_device(task: Task, device: torch.device) -> tuple[Packed, torch.Tensor, torch.Tensor]:
    """A task's packed batch, places and targets. Copies to a GPU are asynchronous, from pinned memory."""
    starts = np.concatenate([[0], np.cumsum(task.lengths)])
    sequence_ids = np.repeat(np.arange(len(task.lengths), dtype=np.int32), task.lengths)
    position_ids = np.arange(len(task.ids)) - starts[sequence_ids]

    def move(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

    packed = Packed(move(task.ids), move(position_ids), move(sequence_ids), move(starts), tuple(task.lengths.tolist()))
    return packed, move(task.places), move(task.targets)
