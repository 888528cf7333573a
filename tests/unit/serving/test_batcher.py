"""Which pairs share a batch, and whose fault a failure is, with a real model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from starlette.requests import ClientDisconnect

from ssmrank.api import Reranker
from ssmrank.models.templates import Template
from ssmrank.serving.batcher import Batcher, BatchRecord, NotScored, Stopped
from ssmrank.serving.lengths import LengthChecker, Truncation
from ssmrank.serving.problems import Problem, Refusal
from ssmrank.serving.scorers import PlainScorer, scorer_of
from ssmrank.serving.service import Service
from ssmrank.serving.settings import ServerSettings

NOISE = 1e-4


class Recorder(PlainScorer):
    """Keeps what each batch has."""

    def __init__(self, reranker: Reranker) -> None:
        super().__init__(reranker)
        self.batches: list[list[tuple[str, str]]] = []

    def score(self, pairs: Sequence[tuple[str, str]]) -> Any:
        self.batches.append(list(pairs))
        return super().score(pairs)


@pytest.fixture
def scorer(reranker: Reranker) -> Recorder:
    return Recorder(reranker)


@pytest.fixture
def batcher(scorer: Recorder) -> Iterator[Batcher]:
    batcher = Batcher(scorer, batch_tokens=100, window=0.0)
    yield batcher
    batcher.abandon()
    batcher.join(30)
    assert not batcher.alive


def texts(count: int, word: str) -> list[str]:
    return [f"{word} {number}" for number in range(count)]


def test_each_request_gets_its_own_scores(batcher: Batcher, scorer: Recorder, reranker: Reranker) -> None:
    tickets = {word: batcher.submit(f"a {word}", texts(7, word), [10] * 7) for word in ("fish", "snow", "boat")}
    batcher.start()
    for word, ticket in tickets.items():
        found = [score.score for score in ticket.future.result(60).scores]
        assert found == pytest.approx(reranker.score(f"a {word}", texts(7, word)), abs=NOISE)
    assert len(scorer.batches) == 3


def test_requests_take_turns(batcher: Batcher, scorer: Recorder) -> None:
    """With room for ten pairs a batch, a request of four is done in the first batch it is in, whatever else waits."""
    long = batcher.submit("long", texts(60, "a"), [10] * 60)
    short = batcher.submit("short", texts(4, "b"), [10] * 4)
    batcher.start()
    assert short.future.result(60) and not long.future.done()
    long.future.result(60)
    assert sorted(query for query, _ in scorer.batches[0]) == ["long"] * 6 + ["short"] * 4
    assert len(scorer.batches) == 7
    assert [text for batch in scorer.batches for query, text in batch if query == "long"] == texts(60, "a")


def test_none_waits_longer_than_its_turn_when_many_come(batcher: Batcher, scorer: Recorder) -> None:
    """Forty requests of two pairs, in batches of ten: each has its first pair after four batches."""
    tickets = [batcher.submit(f"q{number}", texts(2, "a"), [10, 10]) for number in range(40)]
    batcher.start()
    for ticket in tickets:
        ticket.future.result(60)
    assert {query for batch in scorer.batches[:4] for query, _ in batch} == {f"q{number}" for number in range(40)}
    assert len(scorer.batches) == 8


def test_a_pair_larger_than_a_batch_is_one_alone(batcher: Batcher, scorer: Recorder) -> None:
    ticket = batcher.submit("q", texts(3, "a"), [1000] * 3)
    batcher.start()
    assert len(ticket.future.result(60).scores) == 3
    assert [len(batch) for batch in scorer.batches] == [1, 1, 1]


def test_a_pair_that_fails_fails_its_request_alone(batcher: Batcher, reranker: Reranker) -> None:
    """Half of a surrogate pair, which routes refuse, makes the model's tokenizer fail."""
    good = batcher.submit("good", texts(3, "a"), [10] * 3)
    bad = batcher.submit("bad", ["b", "\ud800"], [10, 10])
    other = batcher.submit("other", texts(3, "c"), [10] * 3)
    batcher.start()
    with pytest.raises(NotScored, match="is half of a pair"):
        bad.future.result(60)
    for ticket, query, word in ((good, "good", "a"), (other, "other", "c")):
        found = [score.score for score in ticket.future.result(60).scores]
        assert found == pytest.approx(reranker.score(query, texts(3, word)), abs=NOISE)
    assert batcher.alive


def test_what_is_dropped_is_not_computed(batcher: Batcher, scorer: Recorder) -> None:
    dropped = batcher.submit("dropped", texts(5, "a"), [10] * 5)
    kept = batcher.submit("kept", texts(2, "b"), [10] * 2)
    assert batcher.pairs_waiting == 7
    batcher.drop(dropped)
    assert batcher.pairs_waiting == 2
    batcher.start()
    kept.future.result(60)
    assert {query for batch in scorer.batches for query, _ in batch} == {"kept"}


def test_what_waits_at_the_end_is_told(scorer: Recorder) -> None:
    batcher = Batcher(scorer, batch_tokens=100, window=0.0)
    waiting = batcher.submit("q", texts(2, "a"), [10, 10])
    batcher.abandon()
    batcher.start()
    for ticket in (waiting, batcher.submit("late", ["a"], [10])):
        with pytest.raises(Stopped):
            ticket.future.result(60)
    batcher.join(30)
    assert not batcher.alive and not scorer.batches


def test_records_of_batches(scorer: Recorder) -> None:
    records: list[BatchRecord] = []
    batcher = Batcher(scorer, batch_tokens=100, window=0.0, on_batch=records.append)
    tickets = [batcher.submit(f"q{number}", texts(3, "a"), [10] * 3) for number in range(2)]
    batcher.start()
    for ticket in tickets:
        scored = ticket.future.result(60)
        assert scored.queued >= 0 and scored.computed > 0
    [record] = records
    assert (record.pairs, record.cached, record.requests) == (6, 0, 2)
    assert record.seconds > 0
    assert batcher.seconds_waiting() == 0
    batcher.abandon()
    batcher.join(30)


def test_an_encoder_is_served_without_states(root: Path) -> None:
    encoder = Reranker.from_pretrained(root / "models/minis/bert", device="cpu", precision="fp32", state_cache="1GB")
    scorer = scorer_of(encoder)
    assert isinstance(scorer, PlainScorer) and scorer.stats() is None
    pairs = [("fish", "Gills."), ("snow", "Snow falls."), ("fish", "Snow falls."), ("fish", "Gills.")]
    found = scorer.score(pairs)
    assert [score.score for score in found] == pytest.approx(
        [encoder.score(query, [text])[0] for query, text in pairs], abs=NOISE
    )
    assert not any(score.cached for score in found)


def test_what_was_seen_costs_its_querys_tokens(reranker: Reranker) -> None:
    for keeps_states in (True, False):
        lengths = LengthChecker(reranker.model, keeps_states)
        documents = ["a text of some words, " * 4, "b"]
        first, again = (
            lengths.measure(lengths.ask(query, Truncation()), documents, Truncation(), [0, 1])
            for query in ("fish", "snow")
        )
        assert [part.cost for part in first] == [part.tokens for part in first]
        assert (again[0].cost < again[0].tokens) == keeps_states
        assert again[1].cost <= again[1].tokens


def rank(reranker: Reranker, settings: ServerSettings, receive: Any, count: int = 100) -> Service:
    """Asks a service for more than it computes in the time it has; the error is raised."""

    async def ask() -> None:
        await service.rank("q", texts(count, "space " * 150), Truncation(), receive)

    service = Service(reranker, PlainScorer(reranker), "model", settings)
    service.start()
    try:
        asyncio.run(ask())
    finally:
        assert service.idle.is_set()
        service.stop()
    return service


def test_a_request_that_takes_too_long_is_503(reranker: Reranker) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Refusal, match="no answer after 0") as refusal:
        rank(reranker, ServerSettings(timeout=0.05, batch_tokens=192), never)
    assert refusal.value.problem is Problem.UNHEALTHY
    assert int(refusal.value.headers["Retry-After"]) >= 1


def test_requests_whose_texts_wait_to_be_tokenized_count_for_retry_after(reranker: Reranker, monkeypatch: Any) -> None:
    service = Service(reranker, PlainScorer(reranker), "model", ServerSettings(max_requests=1))
    arrived, go_on = threading.Event(), threading.Event()

    async def never() -> None:
        await asyncio.Event().wait()

    async def ask() -> None:
        await service.rank("q", texts(50, "space " * 150), Truncation(), never)
        measure = service._lengths.measure

        def slowly(*arguments: Any) -> Any:
            arrived.set()
            assert go_on.wait(60)
            return measure(*arguments)

        monkeypatch.setattr(service._lengths, "measure", slowly)
        large = asyncio.ensure_future(service.rank("q", texts(1000, "scan " * 150), Truncation(), never))
        while not arrived.is_set():
            await asyncio.sleep(0.01)
        assert service._batcher.pairs_waiting == 0
        with pytest.raises(Refusal) as refusal:
            await service.rank("q", ["a"], Truncation(), never)
        assert 2 <= int(refusal.value.headers["Retry-After"]) <= 60
        large.cancel()
        go_on.set()
        await asyncio.gather(large, return_exceptions=True)
        assert service._seconds_waiting() == 1

    service.start()
    try:
        asyncio.run(ask())
    finally:
        service.stop()


def test_a_document_is_tokenized_once_and_not_by_the_thread_that_scores(root: Path, monkeypatch: Any) -> None:
    keeping = Reranker.from_pretrained(root / "models/minis/mamba2", device="cpu", precision="fp32", state_cache="1GB")
    service = Service(keeping, scorer_of(keeping), "model", ServerSettings())
    tokenized: list[tuple[str, str]] = []
    own = Template.tokenize_documents

    def noted(template: Template, asked: Sequence[str]) -> Any:
        tokenized.extend((text, threading.current_thread().name) for text in asked)
        return own(template, asked)

    async def never() -> None:
        await asyncio.Event().wait()

    async def ask() -> list[float]:
        return (await service.rank("how fish breathe", documents, Truncation(), never)).scores

    monkeypatch.setattr(Template, "tokenize_documents", noted)
    documents = [*texts(40, "gills take up oxygen"), "a long one " * 300]
    service.start()
    try:
        scores = asyncio.run(ask())
        assert asyncio.run(ask()) == pytest.approx(scores, abs=NOISE)
    finally:
        service.stop()
    assert sorted(text for text, _ in tokenized) == sorted(documents)
    assert {thread.rstrip("_0123456789") for _, thread in tokenized} == {"ssmrank-texts"}
    monkeypatch.undo()
    plain = Reranker.from_pretrained(root / "models/minis/mamba2", device="cpu", precision="fp32")
    assert scores == pytest.approx(plain.score("how fish breathe", documents), abs=NOISE)


def test_a_client_that_has_gone_ends_its_request(reranker: Reranker) -> None:
    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        rank(reranker, ServerSettings(batch_tokens=192), gone)


def test_a_queue_of_clients_that_have_gone_does_not_end_the_thread(batcher: Batcher) -> None:
    """A client that goes cancels its future before its request leaves the queue."""
    batcher.submit("gone", texts(3, "a"), [10] * 3).future.cancel()
    batcher.start()
    until = time.monotonic() + 60
    while batcher.pairs_waiting and time.monotonic() < until:
        time.sleep(0.01)
    assert len(batcher.submit("here", texts(2, "b"), [10] * 2).future.result(60).scores) == 2
    assert batcher.alive
