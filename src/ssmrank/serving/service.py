"""A request's way through the server: admitted, measured, queued, scored, or refused on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, TypeVar

import torch
from starlette.requests import ClientDisconnect

from ssmrank.api import Reranker
from ssmrank.errors import UserError
from ssmrank.serving.batcher import Batcher, NotScored, Scored, Stopped
from ssmrank.serving.bodies import Bodies
from ssmrank.serving.lengths import Asked, LengthChecker, Measured, Truncation
from ssmrank.serving.metrics import Metrics
from ssmrank.serving.problems import Problem, Refusal
from ssmrank.serving.scorers import PairScorer
from ssmrank.serving.settings import ServerSettings

_MEASURED_AT_ONCE = 32
"""Documents that are tokenized before another request's turn."""

_BODIES = 32
"""How many of the largest bodies may be read at the same time; more of smaller ones."""

_STOPPING_SECONDS = 5.0

_WEIGHT = 0.2
"""How much the last texts count for what the next ones will take."""

Found = TypeVar("Found")
Receive = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Answer:
    """For each document of a request its score and whether it was found in the cache.

    order: the documents' numbers, best first; equal scores keep the request's order. tokens: of all pairs.
    """

    scores: list[float]
    cached: list[bool]
    order: list[int]
    tokens: int
    queued: float
    computed: float


class Service:
    """The model behind the routes. `name` is what clients call it."""

    def __init__(self, reranker: Reranker, scorer: PairScorer, name: str, settings: ServerSettings) -> None:
        self.reranker, self.name, self.settings = reranker, name, settings
        self.metrics = Metrics(scorer.stats)
        self.bodies = Bodies(settings.max_bytes, _BODIES * settings.max_bytes, settings.timeout, settings.max_documents)
        self._lengths = LengthChecker(reranker.model, scorer.stats() is not None, scorer.sizes)
        self._batcher = Batcher(
            scorer, settings.batch_tokens, settings.window, self.metrics.add_batch, partial(_use, reranker.device)
        )
        self._texts = ThreadPoolExecutor(1, thread_name_prefix="ssmrank-texts")
        self._unmeasured = Unmeasured()
        self._admitted = 0
        self._draining = False
        self.idle = asyncio.Event()
        self.idle.set()
        self.metrics.waiting.set_function(lambda: self._admitted)
        self.metrics.pairs_waiting.set_function(lambda: self._batcher.pairs_waiting)

    def start(self) -> None:
        """Starts the thread that computes."""
        self._batcher.start()

    def drain(self) -> None:
        """From now on requests are refused; those that are admitted go on."""
        self._draining = True

    def abandon(self) -> None:
        """Refuses the requests that still wait; only the batch that runs is finished."""
        self.drain()
        self._batcher.abandon()

    def stop(self) -> None:
        """Ends the threads."""
        self.abandon()
        self._batcher.join(_STOPPING_SECONDS)
        self._texts.shutdown(wait=False, cancel_futures=True)

    def check_open(self) -> None:
        """Raises Refusal while the server stops, and if the thread that computes has died."""
        if self._draining:
            raise Refusal(
                Problem.UNHEALTHY, "the server is stopping; send the request to another", {"Retry-After": "5"}
            )
        if not self._batcher.alive:
            raise Refusal(Problem.UNHEALTHY, "the model's thread has ended; restart the server")

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place among the requests that wait or are computed. Raises Refusal if there is none."""
        self.check_open()
        if self._admitted >= self.settings.max_requests:
            seconds = self._seconds_waiting()
            message = f"{self._admitted} requests are waiting; try again in {seconds} seconds"
            raise Refusal(Problem.OVERLOADED, message, {"Retry-After": str(seconds)})
        self._admitted += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._admitted -= 1
            if not self._admitted:
                self.idle.set()

    def _seconds_waiting(self) -> int:
        """About how many seconds the requests take that wait, at least 1 and at most 60."""
        texts = self._unmeasured
        return min(60, max(1, ceil(texts.seconds + self._batcher.seconds_waiting(texts.tokens))))

    async def rank(self, query: str, documents: Sequence[str], truncation: Truncation, receive: Receive) -> Answer:
        """Ranks documents. Raises Refusal, or ClientDisconnect as soon as `receive` says that the client has gone."""
        with self._place():
            work = asyncio.ensure_future(self._answer(query, documents, truncation))
            gone = asyncio.ensure_future(_disconnected(receive))
            try:
                await asyncio.wait((work, gone), timeout=self.settings.timeout, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return work.result()
                if gone.done():
                    raise ClientDisconnect
                raise Refusal(
                    Problem.UNHEALTHY,
                    f"no answer after {self.settings.timeout:g} seconds; try again later, or send fewer documents",
                    {"Retry-After": str(self._seconds_waiting())},
                )
            finally:
                for task in (work, gone):
                    task.cancel()
                await asyncio.gather(work, gone, return_exceptions=True)

    async def _answer(self, query: str, documents: Sequence[str], truncation: Truncation) -> Answer:
        # A text that is given twice is scored once, so that its scores are equal.
        numbers = {text: number for number, text in reversed(list(enumerate(documents)))}
        distinct = list(dict.fromkeys(documents))
        asked, parts = await self._measured(query, distinct, truncation, numbers)
        scored = await self._scored(asked.text, [part.text for part in parts], [part.cost for part in parts])
        measured = dict(zip(distinct, parts, strict=True))
        found = dict(zip(distinct, scored.scores, strict=True))
        scores = [found[text].score for text in documents]
        self.metrics.queued.observe(scored.queued)
        self.metrics.documents.observe(len(documents))
        tokens = sum(measured[text].tokens for text in documents)
        self.metrics.tokens.inc(tokens)
        return Answer(
            scores,
            [found[text].cached for text in documents],
            sorted(range(len(scores)), key=lambda place: -scores[place]),
            tokens,
            scored.queued,
            scored.computed,
        )

    async def _measured(
        self, query: str, documents: Sequence[str], truncation: Truncation, numbers: Mapping[str, int]
    ) -> tuple[Asked, list[Measured]]:
        run, found = asyncio.get_running_loop().run_in_executor, list[Measured]()
        with self._unmeasured.waiting(sum(map(len, documents))) as done:
            try:
                asked = await run(self._texts, self._lengths.ask, query, truncation)
                for first in range(0, len(documents), _MEASURED_AT_ONCE):
                    part = documents[first : first + _MEASURED_AT_ONCE]
                    places = [numbers[text] for text in part]
                    measure = partial(self._lengths.measure, asked, part, truncation, places)
                    measured, seconds = await run(self._texts, _timed, measure)
                    found += measured
                    done(sum(map(len, part)), seconds, sum(one.cost for one in measured))
            except UserError as error:
                raise Refusal(Problem.VALUE, str(error)) from None
        return asked, found

    async def _scored(self, query: str, documents: Sequence[str], costs: Sequence[int]) -> Scored:
        ticket = self._batcher.submit(query, documents, costs)
        try:
            return await asyncio.wrap_future(ticket.future)
        except NotScored as error:
            raise Refusal(Problem.BACKEND, str(error)) from None
        except Stopped:
            raise Refusal(Problem.UNHEALTHY, "the server has stopped; send the request to another") from None
        finally:
            self._batcher.drop(ticket)


class Unmeasured:
    """Characters of requests that wait to be tokenized, and what those before took. For one thread."""

    def __init__(self) -> None:
        self._characters = 0
        self._seconds_each = self._tokens_each = 0.0

    @property
    def seconds(self) -> float:
        """About how long they take to be tokenized."""
        return self._characters * self._seconds_each

    @property
    def tokens(self) -> int:
        """About how many tokens will be computed for them."""
        return round(self._characters * self._tokens_each)

    @contextmanager
    def waiting(self, characters: int) -> Iterator[Callable[[int, float, int], None]]:
        """Counts a request's characters until the end, or until the function that it yields takes some out.

        That one is given characters, the seconds that they took, and the tokens to be computed for them.
        """
        left = characters
        self._characters += characters

        def done(measured: int, seconds: float, tokens: int) -> None:
            nonlocal left
            left -= measured
            self._characters -= measured
            weight = _WEIGHT if self._seconds_each else 1.0
            self._seconds_each += weight * (seconds / max(1, measured) - self._seconds_each)
            self._tokens_each += weight * (tokens / max(1, measured) - self._tokens_each)

        try:
            yield done
        finally:
            self._characters -= left


def _timed(work: Callable[[], Found]) -> tuple[Found, float]:
    """What the work gives, and its seconds."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _use(device: torch.device) -> None:
    """Makes a GPU this thread's own: kernels run on the current one, which each thread has to choose."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
