"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from ssmrank.config.trainings import TrainSettings
from ssmrank.errors import UserError
from ssmrank.models.bi_encoder import BiEncoderModel
from ssmrank.models.packed_model import PackedModel
from ssmrank.models.precision import Precision, resolve_precision
from ssmrank.training import randomness
from ssmrank.training.cached_gradients import CachedGradients
from ssmrank.training.captured import may_capture
from ssmrank.training.contrastive import ContrastiveLoss
from ssmrank.training.gradients import Accumulator
from ssmrank.training.groups import GroupSequences
from ssmrank.training.loss import LOSSES
from ssmrank.training.memory import choose_recomputation, recomputed_layers
from ssmrank.training.optimizer import STATE_BYTES, make_adamw, set_learning_rate
from ssmrank.training.parallel import Workers
from ssmrank.training.progress import History, Progress
from ssmrank.training.sampler import step_indices
from ssmrank.training.schedule import linear_warmup_decay
from ssmrank.training.state import TrainingState
from ssmrank.training.texts import TextGroups

log = logging.getLogger(__name__)

_CHECK_STEPS = 10
"""Losses are read from the device and checked only this often, because each read waits for the device."""


class Validator(Protocol):
    """Measures a model on held-out queries without changing it; higher is better."""

    every_steps: int
    patience: int | None

    def __call__(self, reranker: PackedModel, workers: Workers) -> float:
        """The metric, the same in every process."""
        ...


def train(
    reranker: PackedModel,
    data: GroupSequences | TextGroups,
    settings: TrainSettings,
    device: torch.device,
    state: TrainingState,
    save_seconds: float = 300.0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    on_validation: Callable[[int, float], None] = lambda step, value: None,
    validator: Validator | None = None,
    workers: Workers | None = None,
) -> History:
    """Fine-tunes `reranker` in place, and leaves it on `device` in evaluation mode, with its best weights if validated.

    Trained weights are float32; matrix products run in the settings' precision. A step's gradients are summed over
    processes and micro-batches of at most `token_budget` tokens, which only changes the order of summation. If a
    training with the same fingerprint was stopped, this one resumes from its `state`. `on_step(step, loss)` is called
    for each step, some steps late, and `on_validation(step, value)` for each validation.

    Raises UserError if the loss is not finite, OutOfMemory if a single group does not fit.
    """
    workers = workers or Workers()
    if settings.batch_groups < workers.size:
        raise UserError(f"batch_groups {settings.batch_groups} is less than {workers.size} processes; raise it")
    reranker.to(device).train()
    precision = resolve_precision(settings.precision, device)
    largest = max(settings.token_budget, (1 + settings.negatives_count) * settings.max_length)
    to_come = workers.bytes_to_come(reranker, precision, STATE_BYTES[settings.optimizer_states])
    choose_recomputation(reranker, settings.activation_checkpointing, precision, device, largest, to_come)
    workers.prepare(reranker, precision)
    optimizer = make_optimizer(reranker, settings, workers)
    gradients = _gradients(reranker, settings, precision, device, workers)
    history = History()
    saver = _Saver(state, save_seconds, reranker, optimizer, history, workers)
    first_step = saver.resume()
    total_steps = max(1, math.ceil(settings.epochs * len(data) / settings.batch_groups))
    if first_step:
        log.info("resuming after step %d of %d", first_step, total_steps)
    losses = _Losses(data, history, on_step)
    progress = Progress(total_steps, first_step, history)
    lengths = data.lengths if settings.length_grouped else None
    steps = step_indices(len(data), settings.batch_groups, settings.seed, first_step, total_steps, lengths)
    for step, indices in enumerate(steps, start=first_step):
        share = linear_warmup_decay(step, total_steps, settings.warmup_ratio)
        set_learning_rate(optimizer, settings.learning_rate * share)
        own = workers.share(indices)
        groups: Any = [data[index] for index in own]
        loss = gradients(groups, len(indices), data.teacher(own))
        workers.clip(reranker, settings.clip_norm)
        optimizer.step()
        workers.stepped()
        gradients.clear()
        losses.take(step, indices, loss)
        progress.count(sum(data.length(index) for index in indices))
        done = step + 1
        last = done == total_steps
        if last or losses.waiting == _CHECK_STEPS:
            losses.read()
            progress.report(last)
        if validator is not None and (last or done % validator.every_steps == 0):
            losses.read()
            value = validator(reranker, workers)
            history.validation.append((done, value))
            on_validation(done, value)
            saver.keep_if_best(done)
            progress.pause()
            if validator.patience is not None and history.validations_since_best() >= validator.patience:
                log.info("step %d: no improvement in %d validations; stopping", done, validator.patience)
                break
        if not last and saver.is_due():
            losses.read()
            saver.save(done)
    saver.take_best()
    reranker.eval()
    return history


def _gradients(
    reranker: PackedModel, settings: TrainSettings, precision: Precision, device: torch.device, workers: Workers
) -> Accumulator | CachedGradients:
    """What adds up the gradients of a step, for this sort of model."""
    may_recompute = settings.activation_checkpointing == "auto"
    if isinstance(reranker, BiEncoderModel):
        assert settings.bi_encoder is not None
        loss = ContrastiveLoss(
            widths=(reranker.width, *(width for width in settings.bi_encoder.widths if width != reranker.width)),
            normalize=settings.bi_encoder.normalize,
            temperature=settings.bi_encoder.temperature,
            contrastive_weight=settings.bi_encoder.contrastive_weight,
            distils=LOSSES[settings.loss].distils,
        )
        return CachedGradients(
            *(reranker, loss, settings.bi_encoder.in_batch, precision, device, settings.token_budget, workers),
            may_recompute=may_recompute,
        )
    gradients = Accumulator(
        *(reranker, LOSSES[settings.loss], precision, device, settings.token_budget, workers),
        may_recompute=may_recompute,
    )
    if settings.cuda_graphs == "auto" and _may_use_graphs(reranker, precision, device, workers):
        own_groups = math.ceil(settings.batch_groups / workers.size)
        gradients.use_graphs(1 + settings.negatives_count, own_groups, settings.max_length)
    return gradients


def _may_use_graphs(reranker: PackedModel, precision: Precision, device: torch.device, workers: Workers) -> bool:
    """Whether passes may be CUDA graphs.

    They may not if layers recompute or processes wait for each other within a pass (for the rest see `may_capture`).
    """
    recomputes = recomputed_layers(reranker.backbone) > 0
    return may_capture(reranker.backbone, precision, device) and workers.may_repeat and not recomputes


def make_optimizer(reranker: PackedModel, settings: TrainSettings, workers: Workers) -> torch.optim.Optimizer:
    """AdamW with weight decay only on matrices, not on biases, norms and Mamba's A and D."""
    groups = workers.parameter_groups(reranker, settings.weight_decay)
    return make_adamw(groups, settings.learning_rate, settings.optimizer_states)


class _Saver:
    """Writes and reads the state that a killed training resumes from."""

    def __init__(
        self,
        state: TrainingState,
        seconds: float,
        reranker: PackedModel,
        optimizer: torch.optim.Optimizer,
        history: History,
        workers: Workers,
    ) -> None:
        self.state, self.seconds = state, seconds
        self.reranker, self.optimizer, self.history, self.workers = reranker, optimizer, history, workers
        self.device = next(reranker.parameters()).device
        self.last = time.monotonic()

    def resume(self) -> int:
        """Restores the newest undamaged state and returns its number of steps, or 0 if there is none."""
        if self.workers.rank == 0:
            self.state.remove_unfinished()
        # The first process looks for damage, so that it is reported once.
        step = self.workers.gather(self.state.newest() if self.workers.rank == 0 else None)[0]
        if step is None:
            return 0
        saved = self.workers.load(self.state, step, self.reranker, self.optimizer)
        vars(self.history).update(saved["history"])
        if len(saved["random"]) == self.workers.size:
            randomness.restore(saved["random"][self.workers.rank], self.device)
        return step

    def is_due(self) -> bool:
        return self.workers.first_decides(time.monotonic() - self.last >= self.seconds)

    def save(self, step: int) -> None:
        facts = {"history": vars(self.history), "random": self.workers.gather(randomness.snapshot(self.device))}
        best = self.history.best[0] if self.history.best else None
        self.workers.save(self.state, step, self.reranker, self.optimizer, facts, best)
        self.last = time.monotonic()

    def keep_if_best(self, step: int) -> None:
        """Keeps the weights if the last validation is the best."""
        if self.history.best is None or self.history.best[0] != step:
            return
        weights = self.workers.weights(self.reranker)
        if self.workers.rank == 0:
            self.state.save_best(step, weights)

    def take_best(self) -> None:
        """Loads the best weights, unless they are the last ones anyway."""
        best = self.history.best
        if best is None or best[0] == len(self.history.loss):
            return
        self.workers.wait()  # no process may read before the first has written
        self.workers.take_weights(self.reranker, self.state.load_best(best[0]))
        log.info("keeping the weights after step %d, the best of %d validations", best[0], len(self.history.validation))


class _Losses:
    """Losses that stay on the device until they are read."""

    def __init__(
        self, data: GroupSequences | TextGroups, history: History, on_step: Callable[[int, float], None]
    ) -> None:
        self.data, self.history, self.on_step = data, history, on_step
        self._taken: list[tuple[int, list[int], torch.Tensor]] = []

    @property
    def waiting(self) -> int:
        """The number of losses that are not read yet."""
        return len(self._taken)

    def take(self, step: int, indices: list[int], loss: torch.Tensor) -> None:
        """Adds the loss of a step on the groups `indices`."""
        self._taken.append((step, indices, loss))

    def read(self) -> None:
        """Moves the losses to the history. Raises UserError for a loss that is not finite."""
        for step, indices, loss in self._taken:
            value = loss.item()
            if not math.isfinite(value):
                queries = ", ".join(dict.fromkeys(self.data.groups[index].query for index in indices))
                raise UserError(
                    f"loss is {value} at step {step + 1}, batch of queries {queries}; lower learning_rate or set "
                    "precision: fp32 (nothing was written)"
                )
            self.history.loss.append(value)
            self.on_step(step + 1, value)
        self._taken.clear()
