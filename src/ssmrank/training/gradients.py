"""The gradients of one step, summed over micro-batches that fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ssmrank.errors import UserError
from ssmrank.models.packed_model import PackedModel
from ssmrank.models.packing import Packed, pack
from ssmrank.models.precision import Precision, autocast
from ssmrank.training import randomness
from ssmrank.training.graphs import Graphs
from ssmrank.training.loss import Loss
from ssmrank.training.memory import recompute_layers, recomputed_layers
from ssmrank.training.parallel import Workers
from ssmrank.training.sampler import micro_batches

log = logging.getLogger(__name__)


class OutOfMemory(Exception):
    """A single group does not fit into the device's memory."""


@dataclass
class Accumulator:
    """Sums the gradients of a step. `budget`, the tokens of a micro-batch, is halved when memory runs out.

    may_recompute: whether all layers may recompute their activations if a single group does not fit. After
    `use_graphs`, passes of a shape that comes again are CUDA graphs, as long as memory suffices.
    """

    reranker: PackedModel
    loss: Loss
    precision: Precision
    device: torch.device
    budget: int
    workers: Workers
    may_recompute: bool = False

    def __post_init__(self) -> None:
        self.graphs: Graphs | None = None

    def use_graphs(self, group_size: int, groups: int, longest: int) -> None:
        """Allows CUDA graphs for micro-batches of at most `groups` groups; longest: the most tokens of a sequence."""
        self.graphs = Graphs(self._run, group_size, groups, longest, self.device)

    @property
    def drops_gradients(self) -> bool:
        """Whether gradients may be set to None between steps. Not if graphs or workers need the same tensors again."""
        return self.graphs is None and not self.workers.keeps_gradients

    def clear(self) -> None:
        """Drops the gradients, or sets them to zero."""
        self.workers.clear(self.reranker, self.drops_gradients)

    def __call__(
        self, groups: Sequence[list[np.ndarray]], step_groups: int, teacher: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Adds the gradients of the step's mean loss, and returns this loss, on the device.

        groups: this process's groups of the step; step_groups: the number of groups of all processes, over which loss
        and gradients are averaged. If memory runs out, the step is repeated with smaller micro-batches and the same
        result. Raises OutOfMemory, in every process, if a single group does not fit. Raises UserError if memory runs
        out where a process cannot repeat its step (fsdp2, layer by layer).
        """
        lengths = [sum(len(sequence) for sequence in group) for group in groups]
        random_state = randomness.snapshot(self.device)
        loss = None
        while loss is None:
            try:
                loss = self._pass(groups, lengths, step_groups, teacher)
            except torch.OutOfMemoryError as error:
                if not self.workers.may_repeat:
                    raise full_memory(self.workers) from error
                self.graphs = None  # frees their memory
                self.clear()
                if not self._use_less(lengths):
                    break
                randomness.restore(random_state, self.device)
        if self.workers.any(loss is None):
            raise OutOfMemory
        assert loss is not None
        return self.workers.add_up(self.reranker, loss)

    def _pass(
        self, groups: Sequence[list[np.ndarray]], lengths: list[int], step_groups: int, teacher: torch.Tensor | None
    ) -> torch.Tensor:
        total = torch.zeros((), device=self.device)
        batches = micro_batches(lengths, self.budget)
        rounds = self.workers.rounds(len(batches))
        for number in range(rounds):
            # If processes go through the layers together, one that is done early takes part with weight 0.
            batch, weight = (batches[number], 1.0) if number < len(batches) else (batches[-1], 0.0)
            sequences = [sequence for index in batch for sequence in groups[index]]
            weights = [weight / step_groups] * len(batch)
            targets = None if teacher is None else teacher[batch]
            if self.graphs is not None:
                total += self.graphs(sequences, weights, targets)
            else:
                targets = None if targets is None else targets.to(self.device, non_blocking=True)
                total += self._run(pack(sequences, self.device), torch.tensor(weights, device=self.device), targets)
        return total

    def _run(self, packed: Packed, weights: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Adds the gradients of groups with these weights. Sequences after theirs only fill up the shape."""
        with autocast(self.precision, self.device):
            scores = self.reranker(packed)
        group_size = len(scores) // len(weights) if self.graphs is None else self.graphs.group_size
        scores = scores[: len(weights) * group_size].view(len(weights), group_size)
        loss = (self.loss(scores, targets) * weights).sum()
        (loss * self.workers.gradient_scale).backward()
        return loss.detach()

    def _use_less(self, lengths: list[int]) -> bool:
        budget = use_less_memory(self.reranker, lengths, self.budget, self.may_recompute)
        if budget is not None:
            self.budget = budget
        return budget is not None


def use_less_memory(model: PackedModel, lengths: list[int], budget: int, may_recompute: bool) -> int | None:
    """Halves the micro-batch, or makes all layers recompute; the budget, or None if neither would save memory."""
    if len(micro_batches(lengths, budget)) < len(lengths):
        budget //= 2
        log.warning("out of memory: repeating the step with micro-batches of %d tokens", budget)
    elif may_recompute and recomputed_layers(model.backbone) == 0:
        recompute_layers(model.backbone, share=1.0)
        log.warning("out of memory: repeating the step with all activations recomputed")
    else:
        return None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return budget


def full_memory(workers: Workers) -> UserError:
    """The error of a process that cannot repeat its part of a step (fsdp2)."""
    return UserError(
        f"process {workers.rank} ran out of memory; where fsdp2 gathers weights layer by layer, set a lower "
        "token_budget or activation_checkpointing: full"
    )
