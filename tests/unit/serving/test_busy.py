"""A server that computes for seconds: queue, clients that leave, and the end of the process."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from http_client import Reply, ServerProcess, serving

# A batch has room for one long text, so a request of many takes many batches, each time that it comes.
SLOW = ["--precision", "fp32", "--device", "cpu", "--batch-tokens", "192", "--state-cache", "0"]


def long_request(count: int, word: str = "state") -> dict[str, object]:
    """A request of `count` texts that fill the model's input."""
    return {
        "query": "fish",
        "texts": [f"{word} {number} " + "space models scan a sequence " * 60 for number in range(count)],
    }


SHORT = {"query": "snow", "texts": ["Snow falls.", "Gills.", "A search engine."]}


def in_background(call: Callable[[], Reply]) -> Future[Reply]:
    future: Future[Reply] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def metric(server: ServerProcess, name: str) -> float:
    lines = server.get("/metrics").raw.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def wait_until(reached: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def busy(folder: Path) -> Iterator[ServerProcess]:
    with serving(folder, *SLOW, "--max-requests", "2") as server:
        yield server


def test_a_short_request_does_not_wait_for_a_long_one(busy: ServerProcess) -> None:
    long = in_background(lambda: busy.post("/rerank", long_request(100)))
    wait_until(lambda: metric(busy, "ssmrank_pairs_waiting ") > 50)
    short = busy.post("/rerank", SHORT)
    assert short.status == 200 and not long.done()
    assert metric(busy, "ssmrank_pairs_waiting ") > 0
    assert long.result(120).status == 200


def test_requests_beyond_the_queue_are_429(busy: ServerProcess) -> None:
    waiting = [in_background(lambda: busy.post("/rerank", long_request(30))) for _ in range(2)]
    wait_until(lambda: metric(busy, "ssmrank_requests_waiting ") == 2)
    for path, asked in (("/rerank", SHORT), ("/v1/rerank", {"query": "a", "documents": ["b"]})):
        reply = busy.post(path, asked)
        assert reply.status == 429
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        said = f"2 requests are waiting; try again in {reply.headers['retry-after']} seconds"
        assert (reply.body.get("message") or reply.body["error"]) == said
    assert busy.get("/health").status == 200
    assert [reply.result(120).status for reply in waiting] == [200, 200]


def test_a_client_that_leaves_is_not_computed(busy: ServerProcess) -> None:
    pairs = metric(busy, "ssmrank_pairs_total")
    long = in_background(lambda: busy.post("/rerank", long_request(30, "scan")))
    wait_until(lambda: metric(busy, "ssmrank_requests_waiting ") == 1)
    gone = 'ssmrank_requests_total{route="/rerank",status="499"}'
    before = metric(busy, gone)
    body = json.dumps(long_request(200, "left")).encode()
    with socket.create_connection((busy.host, busy.port)) as connection:
        head = (
            f"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        wait_until(lambda: metric(busy, "ssmrank_requests_waiting ") == 2)
    wait_until(lambda: metric(busy, gone) == before + 1)
    assert long.result(120).status == 200
    wait_until(lambda: metric(busy, "ssmrank_requests_waiting ") == 0)
    assert metric(busy, "ssmrank_pairs_total") - pairs < 30 + 200
    assert metric(busy, "ssmrank_pairs_waiting ") == 0


def test_no_thread_no_socket_and_no_text_is_left(busy: ServerProcess) -> None:
    """Answered, malformed and cut requests leave nothing behind."""

    def some(count: int) -> None:
        for number in range(count):
            assert busy.post("/rerank", SHORT).status == 200
            assert busy.post("/rerank", b"{" * number).status == 400
            with socket.create_connection((busy.host, busy.port)) as connection:
                connection.sendall(b"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"[: 10 * number + 1])

    def left() -> tuple[int, int]:
        process = Path(f"/proc/{busy.process.pid}")
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    some(10)
    wait_until(lambda: metric(busy, "ssmrank_requests_waiting ") == 0)
    before, memory = left(), metric(busy, "process_resident_memory_bytes ")
    for _ in range(4):
        in_background(lambda: busy.post("/rerank", {"query": "a", "texts": ["b" * 1_900_000]})).result(120)
    some(40)
    wait_until(lambda: left() <= before)
    assert metric(busy, "process_resident_memory_bytes ") - memory < 100e6


def test_sigterm_finishes_what_runs_and_refuses_what_comes(folder: Path) -> None:
    with serving(folder, *SLOW) as server:
        long = in_background(lambda: server.post("/rerank", long_request(60)))
        wait_until(lambda: metric(server, "ssmrank_pairs_waiting ") > 10)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/health").status == 503)
        refused = server.post("/rerank", SHORT)
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert refused.body == {
            "error": "the server is stopping; send the request to another",
            "error_type": "Unhealthy",
        }
        assert not long.done()
        assert len(long.result(120).body) == 60
        assert server.process.wait(20) == 0


def test_sigterm_ends_after_its_grace(folder: Path) -> None:
    with serving(folder, *SLOW, "--grace", "0.3") as server:
        long = in_background(lambda: server.post("/rerank", long_request(500)))
        wait_until(lambda: metric(server, "ssmrank_pairs_waiting ") > 10)
        server.process.send_signal(signal.SIGTERM)
        assert long.result(120).status == 503
        assert server.process.wait(20) == 0


def test_a_second_signal_ends_it_at_once(folder: Path) -> None:
    with serving(folder, *SLOW) as server:
        in_background(lambda: server.post("/rerank", long_request(500)))
        wait_until(lambda: metric(server, "ssmrank_pairs_waiting ") > 10)
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: server.get("/health").status == 503)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0
