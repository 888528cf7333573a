"""Requests of all users in common batches, computed by the one thread that owns the model.

Each batch is filled with the next pairs of all waiting requests in equal shares, so a request of a thousand documents
does not hold up one of five: that one is done after its own share of the next batches. A pair that cannot be scored
fails its own request alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite

from ssmrank.errors import UserError
from ssmrank.serving.scorers import PairScore, PairScorer

log = logging.getLogger(__name__)


class NotScored(Exception):
    """A pair of a request has no score. The message is one line for the request's sender."""


class Stopped(Exception):
    """The batcher ended before the request was computed."""


@dataclass(frozen=True)
class Scored:
    """The scores of a request's pairs, in order. Seconds until its first batch began, and from there until the last."""

    scores: list[PairScore]
    queued: float
    computed: float


@dataclass(frozen=True)
class BatchRecord:
    """A batch that was computed: pairs, those whose documents were found, requests, and seconds."""

    pairs: int
    cached: int
    requests: int
    seconds: float


@dataclass(eq=False)
class Ticket:
    """A request that waits for its scores; cancelling `future` takes it out of the queue.

    costs: tokens of each pair.
    """

    query: str
    documents: Sequence[str]
    costs: Sequence[int]
    future: Future[Scored] = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)
    began: float | None = None
    taken: int = 0
    scores: list[PairScore] = field(default_factory=list)

    def take(self, budget: int) -> list[int]:
        """The next pairs, at least one, of at most `budget` tokens together."""
        first, cost = self.taken, 0
        while self.taken < len(self.documents) and (self.taken == first or cost + self.costs[self.taken] <= budget):
            cost += self.costs[self.taken]
            self.taken += 1
        return list(range(first, self.taken))

    @property
    def cost_left(self) -> int:
        """Tokens of the pairs that no batch has."""
        return sum(self.costs[self.taken :])


Part = tuple[Ticket, list[int]]
"""Pairs of a request that are in one batch."""

Outcome = tuple[Ticket, Sequence[PairScore] | Exception]
"""What became of a part: the scores of its pairs, or why there are none."""


class Batcher:
    """A queue of requests and the thread that empties it.

    on_batch: called from that thread after each batch; begin: called from it once, first.
    """

    def __init__(
        self,
        scorer: PairScorer,
        batch_tokens: int,
        window: float,
        on_batch: Callable[[BatchRecord], None] = lambda record: None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._scorer, self._budget, self._window = scorer, batch_tokens, window
        self._on_batch, self._begin = on_batch, begin
        self._waiting: list[Ticket] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._seconds_per_token = 0.0
        self._thread = threading.Thread(target=self._run, name="ssmrank-batches", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def abandon(self) -> None:
        """Fails the requests that still wait with Stopped. The batch that runs is finished."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Waits for the batch that runs, for a while."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        """Whether requests are computed."""
        return self._thread.is_alive()

    def submit(self, query: str, documents: Sequence[str], costs: Sequence[int]) -> Ticket:
        """Puts a request into the queue; its future gives the scores, or raises NotScored or Stopped."""
        ticket = Ticket(query, documents, costs)
        with self._changed:
            if self._stopping:
                ticket.future.set_exception(Stopped())
            else:
                self._waiting.append(ticket)
                self._changed.notify()
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Takes a request out of the queue; what runs of it goes on."""
        ticket.future.cancel()
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    @property
    def pairs_waiting(self) -> int:
        """Pairs that no batch has."""
        with self._changed:
            return sum(len(ticket.documents) - ticket.taken for ticket in self._waiting)

    def seconds_waiting(self, tokens: int = 0) -> float:
        """About how many seconds the queue takes, and after it so many tokens."""
        with self._changed:
            tokens += sum(ticket.cost_left for ticket in self._waiting)
        return tokens * self._seconds_per_token

    def _run(self) -> None:
        self._begin()
        while (batch := self._next()) is not None:
            if batch:  # otherwise the clients of all that waited have gone
                self._answer(batch)
            del batch  # its texts must not live until the next request comes

    def _answer(self, batch: list[Part]) -> None:
        """Computes a batch, and completes the requests that have all their scores with it."""
        began = time.perf_counter()
        for ticket, _ in batch:
            ticket.began = ticket.began or began
        found = self._computed(batch)
        self._record(batch, found, time.perf_counter() - began)
        for ticket, scores in found:
            self._deliver(ticket, scores)

    def _record(self, batch: list[Part], found: list[Outcome], seconds: float) -> None:
        tokens = sum(ticket.costs[place] for ticket, places in batch for place in places)
        now = seconds / max(1, tokens)
        self._seconds_per_token += 0.2 * (now - self._seconds_per_token) if self._seconds_per_token else now
        scores = [score for _, part in found if not isinstance(part, Exception) for score in part]
        self._on_batch(BatchRecord(len(scores), sum(score.cached for score in scores), len(batch), seconds))

    def _next(self) -> list[Part] | None:
        """The next batch; waits for one. None after `abandon`."""
        with self._changed:
            if not self._waiting:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                # Others that come at the same time join the first batch. While it runs, the next one gathers by itself.
                self._changed.wait_for(self._full, self._window)
            if self._stopping:
                for ticket in self._waiting:
                    _fail(ticket, Stopped())
                self._waiting.clear()
                return None
            return self._filled()

    def _full(self) -> bool:
        return self._stopping or sum(ticket.cost_left for ticket in self._waiting) >= self._budget

    def _filled(self) -> list[Part]:
        """A batch with equal shares of the requests that wait, in tokens; what one does not use goes to the others."""
        self._waiting = [ticket for ticket in self._waiting if not ticket.future.cancelled()]
        taken: dict[Ticket, list[int]] = {}
        left, asking = self._budget, list(self._waiting)
        while asking and left > 0:
            share = max(1, left // len(asking))
            for ticket in asking:
                if left <= 0:
                    break
                places = ticket.take(min(share, left))
                taken.setdefault(ticket, []).extend(places)
                left -= sum(ticket.costs[place] for place in places)
            asking = [ticket for ticket in asking if ticket.taken < len(ticket.documents)]
        # Those that this batch had no room for are first in the next one.
        unfinished = [ticket for ticket in self._waiting if ticket.taken < len(ticket.documents)]
        self._waiting = [t for t in unfinished if t not in taken] + [t for t in unfinished if t in taken]
        return list(taken.items())

    def _computed(self, batch: list[Part]) -> list[Outcome]:
        """The scores of a batch. If it fails, its requests are computed one by one, to find the one at fault."""
        pairs = [(ticket.query, ticket.documents[place]) for ticket, places in batch for place in places]
        try:
            found = self._scorer.score(pairs)
        except Exception as error:
            if len(batch) > 1:
                return [outcome for part in batch for outcome in self._computed([part])]
            return [(batch[0][0], error)]
        outcomes: list[Outcome] = []
        done = 0
        for ticket, places in batch:
            outcomes.append((ticket, found[done : done + len(places)]))
            done += len(places)
        return outcomes

    def _deliver(self, ticket: Ticket, found: Sequence[PairScore] | Exception) -> None:
        if isinstance(found, Exception):
            self._give_up(ticket, found)
            return
        ticket.scores.extend(found)
        if not all(isfinite(score.score) for score in found):
            self._give_up(ticket, UserError("a score is not finite; serve the model with --precision fp32"))
        elif len(ticket.scores) == len(ticket.documents):
            began = ticket.began or ticket.submitted
            now = time.perf_counter()
            with suppress(InvalidStateError):  # its client has gone
                ticket.future.set_result(Scored(ticket.scores, began - ticket.submitted, now - began))

    def _give_up(self, ticket: Ticket, error: Exception) -> None:
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
        if isinstance(error, UserError):
            _fail(ticket, NotScored(str(error)))
        else:
            log.error("a batch failed", exc_info=error)
            _fail(ticket, NotScored("the model failed on this request; the server's log says more"))


def _fail(ticket: Ticket, error: Exception) -> None:
    with suppress(InvalidStateError):  # its client has gone
        ticket.future.set_exception(error)
