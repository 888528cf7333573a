"""The pretraining loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ssmrank.config.pretraining import LanguageModelling
from ssmrank.errors import UserError
from ssmrank.models.precision import Precision, autocast, resolve_precision
from ssmrank.prefetch import prefetch
from ssmrank.pretraining.model import LanguageModel
from ssmrank.pretraining.objectives import Objective, Task, cut, on_device
from ssmrank.pretraining.passes import Passes, filled_up
from ssmrank.pretraining.steps import Step, Steps, step_count
from ssmrank.training import randomness
from ssmrank.training.optimizer import decay_groups
from ssmrank.training.schedule import linear_warmup_decay
from ssmrank.training.state import TrainingState

log = logging.getLogger(__name__)

CHECK_STEPS = 20
"""Steps between readings of the losses, which are then checked; each reading waits for the device."""

_REPORT_SECONDS = 10.0


class Stopped(UserError):
    """The job's time is up; the state was saved."""


class Diverged(UserError):
    """The loss is not finite."""


@dataclass
class LossCurve:
    """The course of a pretraining.

    train: (steps done, tokens read, mean loss of the steps since the last entry).
    held_out: (steps done, tokens read, loss on held-out text).
    tokens, seconds: totals over all steps, without measurements on held-out text.
    """

    train: list[tuple[int, int, float]] = field(default_factory=list)
    held_out: list[tuple[int, int, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Speed of the steps alone."""
        return self.tokens / max(self.seconds, 1e-9)


def pretrain(
    model: LanguageModel,
    steps: Steps,
    held_out: HeldOut,
    objective: Objective,
    settings: LanguageModelling,
    learning_rate: float,
    device: torch.device,
    state: TrainingState,
    save_seconds: float = 300.0,
    stop_seconds: float | None = None,
    on_loss: Callable[[str, int, float], None] = lambda name, step, loss: None,
) -> LossCurve:
    """Pretrains `model` in place on `device` and leaves it in evaluation mode.

    AdamW updates float32 weights with linear warm-up and decay; matmuls run in the settings' precision. The masks of a
    step are drawn from (seed, step), so a training that resumes from `state` reads the same data as one that was never
    interrupted. The state is saved every `save_seconds`. `on_loss(name, steps done, loss)` is called for each entry of
    the curve; the name is "loss" or "held-out loss".

    Raises Diverged where the loss is not finite, and Stopped after `stop_seconds`, once the state is saved.
    """
    began = last_save = time.monotonic()
    model.to(device).train()
    precision = resolve_precision(settings.precision, device)
    optimizer = torch.optim.AdamW(
        decay_groups(model, settings.weight_decay), lr=learning_rate, betas=settings.betas, fused=True
    )
    curve = LossCurve()
    state.remove_unfinished()
    total = step_count(settings.tokens, settings.step_tokens)
    first = _resume(state, model, optimizer, curve, device)
    if first:
        log.info("resuming after step %d of %d", first, total)
    times = settings.held_out_measurements
    measured_at = {round(number * total / times) for number in range(1, times + 1)}
    pending: list[torch.Tensor] = []
    counted = last_report = time.monotonic()
    reported_tokens = curve.tokens

    def read_losses(done: int) -> None:
        values = torch.stack(pending).tolist()
        pending.clear()
        if not all(map(math.isfinite, values)):
            raise Diverged(
                f"loss is {next(v for v in values if not math.isfinite(v))} at one of the last {len(values)} of {done} "
                "steps; lower the learning rates of the sweep or set precision: fp32 (nothing was written)"
            )
        curve.train.append((done, curve.tokens, sum(values) / len(values)))
        on_loss("loss", done, curve.train[-1][2])

    passes = Passes(model, precision, device, settings.max_length)
    made = (_prepare(steps[step], step, objective, settings, device) for step in range(first, total))
    prepared: Any = prefetch(made, 4)
    for step, (parts, places, tokens) in enumerate(prepared, start=first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * linear_warmup_decay(step, total, settings.warmup_ratio)
        mean = torch.zeros((), device=device)
        for packed, where, targets in parts:
            mean += passes(packed, where, targets, share=1 / places)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=not passes.uses_graphs)
        pending.append(mean)
        curve.tokens += tokens
        done = step + 1
        if done % CHECK_STEPS == 0 or done in measured_at or done == total:
            read_losses(done)
        now = time.monotonic()
        curve.seconds += now - counted
        counted = now
        if now - last_report >= _REPORT_SECONDS and curve.train:
            rate = (curve.tokens - reported_tokens) / (now - last_report)
            left = int((total - done) * settings.step_tokens / rate)
            log.info(
                "step %d/%d  loss %.4f  %s tokens/s  %d:%02d left",
                *(done, total, curve.train[-1][2], f"{rate:,.0f}", left // 60, left % 60),
            )
            last_report, reported_tokens = now, curve.tokens
        if done in measured_at:
            value = held_out(model, precision, device)
            curve.held_out.append((done, curve.tokens, value))
            on_loss("held-out loss", done, value)
            log.info("step %d/%d  held-out loss %.4f", done, total, value)
            passed = time.monotonic() - counted
            counted, last_report = counted + passed, last_report + passed
        time_is_up = stop_seconds is not None and now - began >= stop_seconds
        if done < total and (time_is_up or now - last_save >= save_seconds):
            if pending:
                read_losses(done)
            _save(state, done, model, optimizer, curve, device)
            if time_is_up:
                prepared.close()
                raise Stopped(f"stopped after {done} of {total} steps; the same command resumes it")
            counted = last_save = time.monotonic()
    model.eval()
    return curve


class HeldOut:
    """The mean loss on held-out text. Text and masks are the same each time."""

    def __init__(self, steps: list[Step], objective: Objective, settings: LanguageModelling) -> None:
        self._tasks = [
            piece
            for number, step in enumerate(steps)
            for piece in cut(objective(step, np.random.default_rng([settings.seed, number])), settings.token_budget)
        ]
        self.tokens = sum(step.tokens for step in steps)

    @torch.no_grad()
    def __call__(self, model: LanguageModel, precision: Precision, device: torch.device) -> float:
        """The mean loss in nats a predicted token. Leaves the model in training mode."""
        model.eval()
        total = torch.zeros((), dtype=torch.float64, device=device)
        for task in self._tasks:
            with autocast(precision, device):
                total += model(*on_device(task, device))
        model.train()
        return total.item() / sum(len(task.places) for task in self._tasks)


def _prepare(
    step: Step, number: int, objective: Objective, settings: LanguageModelling, device: torch.device
) -> tuple[list, int, int]:
    task: Task = objective(step, np.random.default_rng([settings.seed, number]))
    pieces = cut(task, settings.token_budget)
    if device.type == "cuda":
        pieces = [filled_up(piece) for piece in pieces]
    parts = [on_device(piece, device) for piece in pieces]
    return parts, len(task.places), step.tokens


def _save(
    state: TrainingState,
    done: int,
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    curve: LossCurve,
    device: torch.device,
) -> None:
    state.save(
        done,
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "curve": vars(curve),
            "random": randomness.snapshot(device),
        },
    )


def _resume(
    state: TrainingState,
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    curve: LossCurve,
    device: torch.device,
) -> int:
    loaded = state.load()
    if loaded is None:
        return 0
    done, saved = loaded
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    vars(curve).update(saved["curve"])
    randomness.restore(saved["random"], device)
    return done
