"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ssmrank.config import TrainSettings
from ssmrank.errors import UserError
from ssmrank.models.packing import pack
from ssmrank.models.precision import Precision, autocast, resolve_precision
from ssmrank.models.reranker import Reranker
from ssmrank.training.groups import GroupSequences, micro_batches, step_indices
from ssmrank.training.loss import LOSSES
from ssmrank.training.schedule import linear_warmup_decay
from ssmrank.training.state import TrainingState

log = logging.getLogger(__name__)

_REPORT_SECONDS = 10.0
_CHECK_STEPS = 10
"""Losses are read from the device, and checked, this often: each reading waits for the device."""


class OutOfMemory(Exception):
    """A single group does not fit into the device's memory."""


@dataclass
class History:
    """What a training did: mean loss of each step, tokens and seconds in all."""

    loss: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


def train(
    reranker: Reranker,
    data: GroupSequences,
    settings: TrainSettings,
    device: torch.device,
    state: TrainingState,
    save_seconds: float = 300.0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> History:
    """Fine-tunes `reranker` in place and leaves it in evaluation mode on `device`.

    float32 weights, matrix products in the settings' precision; gradients of a step are summed over micro-batches of
    at most `token_budget` tokens, which changes nothing but the order of summation. Goes on from `state` where a
    training with the same fingerprint was stopped. `on_step(step, loss)` is called for each step, some steps late.

    Raises UserError where the loss is not finite, OutOfMemory where a single group does not fit.
    """
    reranker.to(device).train()
    total_steps = max(1, math.ceil(settings.epochs * len(data) / settings.batch_groups))
    optimizer = make_optimizer(reranker, settings)
    precision = resolve_precision(settings.precision, device)
    history = History()
    first_step, budget = 0, settings.token_budget
    resumed = state.load()
    if resumed is not None:
        first_step, saved = resumed
        _restore(saved, reranker, optimizer, history)
        log.info("going on after step %d of %d", first_step, total_steps)
    pending: list[tuple[int, list[int], torch.Tensor]] = []
    progress = _Progress(total_steps, first_step, history)
    last_save = time.monotonic()
    steps = step_indices(len(data), settings.batch_groups, settings.seed, first_step, total_steps)
    for step, indices in enumerate(steps, start=first_step):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * linear_warmup_decay(step, total_steps, settings.warmup_ratio)
        groups = [data[index] for index in indices]
        loss, budget = accumulate_gradients(reranker, groups, settings, precision, device, budget)
        torch.nn.utils.clip_grad_norm_(reranker.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pending.append((step, indices, loss))
        progress.count(sum(len(sequence) for group_ in groups for sequence in group_))
        last = step + 1 == total_steps
        if last or len(pending) == _CHECK_STEPS:
            _read_losses(pending, data, history, on_step)
            progress.report(last)
        if not last and time.monotonic() - last_save >= save_seconds:
            _read_losses(pending, data, history, on_step)
            state.save(step + 1, _snapshot(reranker, optimizer, history))
            last_save = time.monotonic()
    reranker.eval()
    return history


def make_optimizer(reranker: torch.nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices alone, not on biases, norms and Mamba's A and D."""
    decayed = [p for n, p in reranker.named_parameters() if p.ndim >= 2 and not n.endswith("A_log")]
    kept = {id(p) for p in decayed}
    others = [p for p in reranker.parameters() if id(p) not in kept]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def accumulate_gradients(
    reranker: Reranker,
    groups: Sequence[list[np.ndarray]],
    settings: TrainSettings,
    precision: Precision,
    device: torch.device,
    budget: int,
) -> tuple[torch.Tensor, int]:
    """Adds the step's gradients; on a full device halves the micro-batch and does the step again with the same result.

    Returns the mean loss of the groups, on the device, and the token budget that was used.
    """
    lengths = [sum(len(sequence) for sequence in group) for group in groups]
    random_state = _random_state(device)
    while True:
        try:
            total = torch.zeros((), device=device)
            for batch in micro_batches(lengths, budget):
                packed = pack([sequence for index in batch for sequence in groups[index]], device)
                with autocast(precision, device):
                    scores = reranker(packed).view(len(batch), -1)
                loss = LOSSES[settings.loss](scores).sum() / len(groups)
                loss.backward()
                total += loss.detach()
            return total, budget
        except torch.OutOfMemoryError as error:
            reranker.zero_grad(set_to_none=True)
            if budget < min(lengths) or len(micro_batches(lengths, budget)) == len(groups):
                raise OutOfMemory from error
            budget //= 2
            torch.cuda.empty_cache()
            _set_random_state(random_state, device)
            log.warning("out of memory: the step is done again with micro-batches of %d tokens", budget)


def _read_losses(
    pending: list[tuple[int, list[int], torch.Tensor]],
    data: GroupSequences,
    history: History,
    on_step: Callable[[int, float], None],
) -> None:
    for step, indices, loss in pending:
        value = loss.item()
        if not math.isfinite(value):
            queries = ", ".join(dict.fromkeys(data.groups[index].query for index in indices))
            raise UserError(
                f"loss is {value} at step {step + 1}, batch of queries {queries}; lower learning_rate or set "
                "precision: fp32 (nothing was written)"
            )
        history.loss.append(value)
        on_step(step + 1, value)
    pending.clear()


class _Progress:
    def __init__(self, total_steps: int, first_step: int, history: History) -> None:
        self.total, self.first, self.history = total_steps, first_step, history
        self.start = self.last_report = self.last_count = time.monotonic()
        self.start_tokens = history.tokens

    def count(self, tokens: int) -> None:
        now = time.monotonic()
        self.history.tokens += tokens
        self.history.seconds += now - self.last_count
        self.last_count = now

    def report(self, last: bool) -> None:
        now = time.monotonic()
        if not last and now - self.last_report < _REPORT_SECONDS:
            return
        self.last_report = now
        done, losses = len(self.history.loss), self.history.loss[-50:]
        elapsed = max(now - self.start, 1e-9)
        left = int(elapsed / max(1, done - self.first) * (self.total - done))
        log.info(
            "step %d/%d  loss %.4f  %s tokens/s  %d:%02d left",
            done,
            self.total,
            sum(losses) / len(losses),
            f"{(self.history.tokens - self.start_tokens) / elapsed:,.0f}",
            left // 60,
            left % 60,
        )


def _snapshot(reranker: Reranker, optimizer: torch.optim.Optimizer, history: History) -> dict[str, Any]:
    device = next(reranker.parameters()).device
    return {
        "model": reranker.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": vars(history),
        "random": _random_state(device),
    }


def _restore(saved: dict[str, Any], reranker: Reranker, optimizer: torch.optim.Optimizer, history: History) -> None:
    reranker.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    vars(history).update(saved["history"])
    _set_random_state(saved["random"], next(reranker.parameters()).device)


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
