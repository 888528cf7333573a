"""Thousands of requests, some of them malformed, cut off or slow: none may be lost or answered wrongly."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from serving_load import Client, body, read_answer

NOISE = 1e-3
"""How far a score may be from the one that `Reranker` gives: in fp32 they differ by the order of sums."""

MALFORMED = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe{}",
    b'{"query": "a"}',
    b'{"documents": ["a"]}',
    b'{"query": 1, "documents": ["a"]}',
    b'{"query": "a", "documents": "a"}',
    b'{"query": "a", "documents": [null]}',
    b'{"query": "a", "documents": [["a"]]}',
    b'{"query": "a", "documents": {"0": "a"}}',
    b'{"query": "a", "documents": ["\\ud800"]}',
    b'{"query": "\\udfff", "documents": ["a"]}',
    b'{"query": "a", "documents": ["a"], "top_n": -1}',
    b'{"query": "a", "documents": ["a"], "top_n": true}',
    b'{"query": "a", "documents": []}',
    b'{"query": "a", "documents": ["a"], "model": "../../etc/passwd"}',
    b'{"query": NaN, "documents": ["a"]}',
    b"[" * 20000,
)
"""Bodies that get a status from 400 to 499."""


@dataclass
class Pool:
    """Texts with the scores that `Reranker` gives them. scores: [queries][documents]."""

    queries: Sequence[str]
    documents: Sequence[str]
    scores: Sequence[Sequence[float]]

    def request(self, draw: random.Random, count: int) -> tuple[bytes, list[float]]:
        """A request's body, and the scores of its texts."""
        query = draw.randrange(len(self.queries))
        chosen = draw.sample(range(len(self.documents)), count)
        content = body(self.queries[query], [self.documents[document] for document in chosen])
        return content, [self.scores[query][document] for document in chosen]


@dataclass
class Report:
    """What became of the requests. wrong: what was not as it has to be. memory: MiB, a value every second."""

    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    asked_again: int = 0
    largest_error: float = 0.0
    memory: list[float] = field(default_factory=list)

    def row(self) -> dict[str, str]:
        """The row of a CSV file. Memory is the median of the second and of the last quarter."""
        quarter = max(1, len(self.memory) // 4)
        early = statistics.median(self.memory[quarter : 2 * quarter] or self.memory)
        late = statistics.median(self.memory[-quarter:])
        return {
            "requests": str(sum(self.counts.values())),
            **{name: str(self.counts[name]) for name in ("answered", "malformed", "cut", "slow")},
            "wrong": str(len(self.wrong)),
            "largest_error": f"{self.largest_error:.1e}",
            "seconds": f"{self.seconds:.1f}",
            "memory_early_mib": f"{early:.0f}",
            "memory_late_mib": f"{late:.0f}",
        }


def resident(pid: int) -> float:
    """MiB of memory that a process and its children hold."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(resident(int(child)) for child in children)


class Soak:
    """The clients, against the server of a process."""

    def __init__(self, host: str, port: int, pid: int, pool: Pool, seed: int = 0) -> None:
        self.client, self.pid, self.pool = Client(host, port), pid, pool
        self.draw = random.Random(seed)
        self.report = Report()

    async def run(self, requests: int, in_flight: int, texts: int = 5, share: float = 0.01) -> Report:
        """Sends the requests; `share` of them malformed, as many cut off and as many slow."""
        weights = {"malformed": share, "cut": share, "slow": share, "answered": 1 - 3 * share}
        kinds = iter(self.draw.choices(list(weights), list(weights.values()), k=requests))
        began = time.perf_counter()
        watch = asyncio.create_task(self._watch())

        async def one() -> None:
            for kind in kinds:
                self.report.counts[kind] += 1
                await getattr(self, f"_{kind}")(texts)

        await asyncio.gather(*(one() for _ in range(in_flight)))
        watch.cancel()
        self.report.memory.append(resident(self.pid))
        self.report.seconds = time.perf_counter() - began
        self.client.close()
        return self.report

    async def _watch(self) -> None:
        while True:
            self.report.memory.append(resident(self.pid))
            await asyncio.sleep(1)

    async def _answered(self, texts: int) -> None:
        content, scores = self.pool.request(self.draw, texts)
        for _ in range(100):
            answer = await self.client.send(content, time.perf_counter())
            if answer.status not in (429, 503):  # the server says when it has no room, and the client asks again
                return self._check(answer.status, answer.content, scores)
            self.report.asked_again += 1
            await asyncio.sleep(min(1.0, float(answer.headers.get("retry-after", 1))))
        self.report.wrong.append("refused 100 times")

    async def _malformed(self, _: int) -> None:
        content = self.draw.choice(MALFORMED)
        answer = await self.client.send(content, time.perf_counter())
        if not 400 <= answer.status < 500:
            self.report.wrong.append(f"{content[:60]!r}: status {answer.status}")

    async def _cut(self, texts: int) -> None:
        """Closes the connection within the head, within the body, before the answer, or within the answer."""
        content, _ = self.pool.request(self.draw, texts)
        whole = self.client.head(len(content)) + content
        way = self.draw.choice(("within", "before answer", "within answer"))
        reader, writer = await asyncio.open_connection(self.client.host, self.client.port)
        try:
            writer.write(whole[: self.draw.randrange(len(whole))] if way == "within" else whole)
            await writer.drain()
            if way == "within answer":
                await asyncio.wait_for(reader.read(10), 60)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _slow(self, texts: int) -> None:
        """Sends a request in pieces over a second, and reads the answer a while after it has come."""
        content, scores = self.pool.request(self.draw, texts)
        whole = self.client.head(len(content)) + content
        reader, writer = await asyncio.open_connection(self.client.host, self.client.port)
        step = -(-len(whole) // 20)
        try:
            for start in range(0, len(whole), step):
                writer.write(whole[start : start + step])
                await writer.drain()
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            status, _, answer = await asyncio.wait_for(read_answer(reader), 60)
            self._check(status, answer, scores)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.report.wrong.append(f"slow client: {type(error).__name__}")
        finally:
            writer.close()

    def _check(self, status: int, content: bytes, scores: Sequence[float]) -> None:
        if status != 200:
            self.report.wrong.append(f"status {status}: {content[:200]!r}")
            return
        found: list[Mapping[str, float]] = json.loads(content)["results"]
        if sorted(one["index"] for one in found) != list(range(len(scores))):
            self.report.wrong.append(f"indexes {[one['index'] for one in found]}")
            return
        if any(one["relevance_score"] < other["relevance_score"] for one, other in pairwise(found)):
            self.report.wrong.append("not in the order of scores")
        error = max(abs(one["relevance_score"] - scores[int(one["index"])]) for one in found)
        self.report.largest_error = max(self.report.largest_error, error)
        if error > NOISE:
            self.report.wrong.append(f"a score is off by {error:.2e}")
