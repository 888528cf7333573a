"""Requests with real lengths, and a client that sends them on time whether or not earlier ones were answered."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workloads import read_workload

WAIT = 60.0
"""Seconds after which a request counts as lost."""


def words_of(tokenizer: Path) -> list[str]:
    """Words that are one token each, in the order of their ids: those of a byte-level vocabulary."""
    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    found = [token[1:] for token in sorted(vocabulary, key=vocabulary.get) if token.startswith("Ġ")]
    return [word for word in found if word.isascii() and word.isalpha() and word.islower() and len(word) > 2]


class Texts:
    """Queries and documents of random words, as long as those of a workload in `benchmarks/workloads`.

    `known` are the documents that repeated ones are drawn from: as many as asked for, evenly over the lengths, each as
    often as the collection's queries ask for it.
    """

    def __init__(self, workload: str, words: Sequence[str], known: int, seed: int) -> None:
        data = read_workload(workload)
        self.lengths, self.queries = data.documents, data.queries
        self.random = random.Random(f"{workload} {seed}")
        self.words, self.stream = words, self.random.choices(words, k=200_000)
        order = sorted(range(len(data.documents)), key=data.documents.__getitem__)
        count = min(known, len(order))
        kept = [order[int((place + 0.5) * len(order) / count)] for place in range(count)]
        self.known = [self._words(data.documents[place]) for place in kept]
        # Documents of a workload that lists only some of its pairs are asked for at least once here.
        self.weights = [max(1, len(data.asked[place])) for place in kept]

    def _words(self, length: int) -> str:
        # The first words are drawn anew, so that no two documents begin alike.
        first, start = self.random.choices(self.words, k=3), self.random.randrange(len(self.stream) - length)
        return " ".join((*first, *self.stream[start : start + length]))

    def new(self) -> str:
        """A document that was never asked for."""
        return self._words(self.random.choice(self.lengths))

    def query(self) -> str:
        """A query that was never asked."""
        return " ".join(self.random.choices(self.words, k=self.random.choice(self.queries)))

    def request(self, count: int, repeated: float) -> bytes:
        """A request's body: each of `count` documents is a known one with probability `repeated`."""
        again = sum(self.random.random() < repeated for _ in range(count))
        chosen = dict.fromkeys(self.random.choices(self.known, self.weights, k=again)) if again else {}
        while len(chosen) < again:
            chosen |= dict.fromkeys(self.random.choices(self.known, self.weights, k=again - len(chosen)))
        texts = [*chosen, *(self.new() for _ in range(count - again))]
        self.random.shuffle(texts)
        return body(self.query(), texts)


def body(query: str, texts: Sequence[str]) -> bytes:
    """What `/v2/rerank` takes, whose answers say which documents were found."""
    return json.dumps({"query": query, "documents": texts, "use_activation": False}).encode()


@dataclass
class Answer:
    """What came back. status: 0 if nothing did. latency: seconds since the request was to be sent. late: seconds from
    then until the client sent it."""

    status: int
    latency: float
    late: float = 0.0
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content of the next HTTP/1.1 answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(first.split()[1]), headers, content


class Client:
    """Requests to one server over kept connections; one is opened when none is free."""

    def __init__(self, host: str, port: int, path: str = "/v2/rerank") -> None:
        self.host, self.port, self.path = host, port, path
        self.free: list[Connection] = []

    def head(self, length: int) -> bytes:
        """The request's line and headers."""
        lines = (f"POST {self.path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Content-Type: application/json")
        return "\r\n".join((*lines, f"Content-Length: {length}", "", "")).encode()

    async def send(self, content: bytes, intended: float) -> Answer:
        """Sends one request now; its latency counts from `intended`, a time of `time.perf_counter`."""
        began = time.perf_counter()
        try:
            status, headers, answer = await asyncio.wait_for(self._exchange(content), WAIT)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            status, headers, answer = 0, {}, b""
        return Answer(status, time.perf_counter() - intended, began - intended, answer, headers)

    async def _exchange(self, content: bytes) -> tuple[int, dict[str, str], bytes]:
        kept = bool(self.free)
        connection = self.free.pop() if kept else await asyncio.open_connection(self.host, self.port, limit=2**20)
        reader, writer = connection
        try:
            writer.write(self.head(len(content)) + content)
            await writer.drain()
            found = await read_answer(reader)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            writer.close()
            # The server may close a kept connection at any time before it reads a request: no failure.
            if kept and not getattr(error, "partial", b""):
                return await self._exchange(content)
            raise
        except BaseException:
            writer.close()
            raise
        if found[1].get("connection", "").lower() == "close":
            writer.close()
        else:
            self.free.append(connection)
        return found

    def close(self) -> None:
        """Closes what is kept."""
        for _, writer in self.free:
            writer.close()
        self.free.clear()


async def at_once(
    client: Client, requests: Iterator[bytes], in_flight: int, seconds: float
) -> tuple[list[Answer], float]:
    """Keeps `in_flight` requests open for some seconds or until there are no more; the answers, and the time taken."""
    answers: list[Answer] = []
    began = time.perf_counter()

    async def one() -> None:
        while time.perf_counter() - began < seconds and (content := next(requests, None)) is not None:
            answers.append(await client.send(content, time.perf_counter()))

    await asyncio.gather(*(one() for _ in range(in_flight)))
    return answers, time.perf_counter() - began


async def open_loop(client: Client, requests: Sequence[bytes], rate: float, seed: int) -> list[Answer]:
    """Sends the requests at the times of a Poisson process of `rate` a second, and waits for all answers."""
    random_gaps = random.Random(seed)
    tasks, due = [], time.perf_counter() + 0.05
    for content in requests:
        due += random_gaps.expovariate(rate)
        # The loop's clock may wake a little early; what is sent then is still counted from its own time.
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(client.send(content, due)))
    return list(await asyncio.gather(*tasks))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
