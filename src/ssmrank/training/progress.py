"""What a training has done so far, and its log."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

_REPORT_SECONDS = 10.0


@dataclass
class History:
    """What a training did: each step's mean loss, total tokens and seconds, and (step, metric) of each validation."""

    loss: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    validation: list[tuple[int, float]] = field(default_factory=list)

    @property
    def best(self) -> tuple[int, float] | None:
        """The validation with the highest metric; the first of several."""
        return max(self.validation, key=lambda entry: (entry[1], -entry[0]), default=None)

    def validations_since_best(self) -> int:
        """How many validations came after the best one."""
        return sum(1 for step, _ in self.validation if self.best is not None and step > self.best[0])


class Progress:
    """Counts tokens and seconds into a history and logs loss, tokens/s and the time left."""

    def __init__(self, total_steps: int, first_step: int, history: History) -> None:
        self.total, self.first, self.history = total_steps, first_step, history
        self.start = self.last_report = self.last_count = time.monotonic()
        self.start_tokens = history.tokens

    def count(self, tokens: int) -> None:
        """Counts a step's tokens, and the seconds since the last count."""
        now = time.monotonic()
        self.history.tokens += tokens
        self.history.seconds += now - self.last_count
        self.last_count = now

    def pause(self) -> None:
        """Leaves out the seconds since the last count, because they were not spent on steps."""
        now = time.monotonic()
        self.start += now - self.last_count
        self.last_count = now

    def report(self, last: bool) -> None:
        """Logs progress if this is the last step or the last report was some seconds ago."""
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
