"""The gradients of a bi-encoder's step, whose texts need not fit into memory together (GradCache, Gao et al. 2021).

InfoNCE compares all texts of a step, so its loss is not a sum over micro-batches. But it depends on the weights only
through the texts' vectors. So a first pass makes all vectors, one micro-batch after another, without a graph. The loss
is differentiated with respect to the vectors, which are small. A second pass makes each micro-batch's vectors again,
with the same dropout, and continues the derivative into the weights. The gradients are those of one big batch.

Several processes show each other their vectors, and each computes the whole loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from ssmrank.models.bi_encoder import BiEncoderModel
from ssmrank.models.packing import pack
from ssmrank.models.precision import Precision, autocast
from ssmrank.training import randomness
from ssmrank.training.contrastive import Columns, ContrastiveLoss, GroupIds
from ssmrank.training.gradients import OutOfMemory, full_memory, use_less_memory
from ssmrank.training.parallel import Workers
from ssmrank.training.sampler import micro_batches
from ssmrank.training.texts import TextGroup

T = TypeVar("T")


class _Texts:
    """The texts of some groups, each once: first the queries, then the documents."""

    def __init__(self, groups: Sequence[TextGroup]) -> None:
        queries = {group.ids.query: group.query for group in groups}
        documents = {
            id: sequence for group in groups for id, sequence in zip(group.ids.documents, group.documents, strict=True)
        }
        self.queries, self.documents = list(queries), list(documents)
        self.sequences: list[np.ndarray] = [*queries.values(), *documents.values()]
        self.lengths = [len(sequence) for sequence in self.sequences]


@dataclass(frozen=True)
class _Shown:
    """What a process shows the others: its groups, its texts' ids, their vectors and the teacher's scores."""

    groups: list[GroupIds]
    queries: list[str]
    documents: list[str]
    vectors: torch.Tensor
    teacher: torch.Tensor | None


@dataclass(frozen=True)
class _FirstPass:
    """The vectors of a process's texts, with a graph if `graph`; states of random generators before each round."""

    batches: list[list[int]]
    vectors: torch.Tensor
    graph: bool
    random: list[dict[str, torch.Tensor]]


@dataclass
class CachedGradients:
    """Adds the gradients of a step. `budget`, the tokens of a micro-batch, is halved when memory runs out."""

    model: BiEncoderModel
    loss: ContrastiveLoss
    in_batch: bool
    precision: Precision
    device: torch.device
    budget: int
    workers: Workers
    may_recompute: bool = False

    def clear(self) -> None:
        """Drops the gradients, or sets them to zero."""
        self.workers.clear(self.model, not self.workers.keeps_gradients)

    def __call__(
        self, groups: Sequence[TextGroup], step_groups: int, teacher: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Adds the gradients of the step's mean loss, and returns this loss, on the device.

        groups: this process's groups of the step; step_groups: the number of groups of all processes. If memory runs
        out in a process, all repeat the step. Raises OutOfMemory, in every process, if a single text does not fit, and
        UserError if memory runs out where a process cannot repeat its step (fsdp2).
        """
        texts = _Texts(groups)
        random_state = randomness.snapshot(self.device)
        while (loss := self._try(groups, texts, step_groups, teacher)) is None:
            self.clear()
            randomness.restore(random_state, self.device)
        return self.workers.add_up(self.model, loss)

    def _try(
        self, groups: Sequence[TextGroup], texts: _Texts, step_groups: int, teacher: torch.Tensor | None
    ) -> torch.Tensor | None:
        first = self._together(texts, lambda: self._encode(texts))
        if first is None:
            return None
        vectors = first.vectors.detach()
        own = _Shown([group.ids for group in groups], texts.queries, texts.documents, vectors, teacher)
        shown = self._shown(own)

        def second() -> torch.Tensor:
            loss, gradient = self._differentiate(shown, step_groups)
            self._continue(texts, first, gradient)
            return loss if self.workers.rank == 0 else torch.zeros_like(loss)  # losses are summed over processes

        return self._together(texts, second)

    def _together(self, texts: _Texts, part: Callable[[], T]) -> T | None:
        """What this process's part gives; None in every process if memory ran out in one, which then takes less."""
        found, budget = None, None
        try:
            found = part()
        except torch.OutOfMemoryError as error:
            if not self.workers.may_repeat:
                raise full_memory(self.workers) from error
        if found is None:
            budget = use_less_memory(self.model, texts.lengths, self.budget, self.may_recompute)
            self.budget = budget or self.budget
        if self.workers.any(found is None and budget is None):
            raise OutOfMemory
        return None if self.workers.any(found is None) else found

    def _encode(self, texts: _Texts) -> _FirstPass:
        batches = micro_batches(texts.lengths, self.budget)
        rounds = self.workers.rounds(len(batches))
        vectors, states = [], []
        with torch.set_grad_enabled(rounds == 1):  # what fits at once needs no second pass
            for number in range(rounds):
                states.append(randomness.snapshot(self.device))
                # If processes go through the layers together, one that is done early takes part with its last batch.
                found = self._forward(texts, batches[min(number, len(batches) - 1)])
                if number < len(batches):
                    vectors.append(found)
        return _FirstPass(batches, torch.cat(vectors), rounds == 1, states)

    def _forward(self, texts: _Texts, batch: list[int]) -> torch.Tensor:
        with autocast(self.precision, self.device):
            found: torch.Tensor = self.model(pack([texts.sequences[index] for index in batch], self.device))
        return found

    def _shown(self, own: _Shown) -> list[_Shown]:
        """What all processes show, this one's first."""
        if self.workers.size == 1:
            return [own]
        vectors = own.vectors
        sent = _Shown(own.groups, own.queries, own.documents, vectors.cpu(), own.teacher)
        return self.workers.gather(sent)

    def _differentiate(self, shown: list[_Shown], step_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The step's mean loss, and its gradient with respect to the vectors of this process's texts."""
        parts = [one.vectors.to(self.device).requires_grad_() for one in shown]
        queries, documents = dict[str, int](), dict[str, int]()
        query_rows, document_rows = list[int](), list[int]()
        start = 0
        for one in shown:
            # A text that several processes have counts once.
            for rows, known, ids in ((query_rows, queries, one.queries), (document_rows, documents, one.documents)):
                for id in ids:
                    if id not in known:
                        known[id] = len(rows)
                        rows.append(start)
                    start += 1
        groups = [group for one in shown for group in one.groups]
        scores = [one.teacher for one in shown if one.teacher is not None]
        teacher = torch.cat(scores).to(self.device) if len(scores) == len(shown) else None
        columns = Columns.of(groups, queries, documents, self.in_batch, self.device)
        with torch.enable_grad():
            states = torch.cat(parts)
            loss = self.loss(states[query_rows], states[document_rows], columns, teacher).sum() / step_groups
        gradient, *_ = torch.autograd.grad(loss, [parts[self.workers.rank]])
        return loss.detach(), gradient

    def _continue(self, texts: _Texts, first: _FirstPass, gradient: torch.Tensor) -> None:
        """Adds the gradients of the weights, given that of the vectors."""
        gradient = gradient * self.workers.gradient_scale
        if first.graph:
            first.vectors.backward(gradient)
            return
        start = 0
        for number, random_state in enumerate(first.random):
            batch = first.batches[min(number, len(first.batches) - 1)]
            randomness.restore(random_state, self.device)
            found = self._forward(texts, batch)
            if number < len(first.batches):
                found.backward(gradient[start : start + len(batch)])
                start += len(batch)
            else:
                found.backward(torch.zeros_like(found))
