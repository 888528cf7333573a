"""Limits of a server: key, sizes, slow and cut connections. Its settings are small, so that tests reach them."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from starlette.requests import Request

from http_client import ServerProcess, serving
from ssmrank.serving.bodies import Bodies
from ssmrank.serving.forms import TeiRequest
from ssmrank.serving.problems import Problem, Refusal

KEY = "correct-horse"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
JSON = {"Content-Type": "application/json"} | AUTHORIZED
GOOD = {"query": "fish", "texts": ["Gills take up oxygen."]}
MOST = 20_000


@pytest.fixture(scope="module")
def limited(folder: Path) -> Iterator[ServerProcess]:
    limits = ["--max-bytes", str(MOST), "--max-documents", "5", "--timeout", "3", "--max-connections", "6"]
    limits += ["--keep-alive", "1.5"]
    with serving(folder, "--precision", "fp32", "--device", "cpu", *limits, SSMRANK_API_KEY=KEY) as server:
        yield server


def connected(server: ServerProcess) -> socket.socket:
    return socket.create_connection((server.host, server.port), 20)


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def head(*lines: str) -> bytes:
    first = ["POST /rerank HTTP/1.1", "Host: a", "Content-Type: application/json", f"Authorization: Bearer {KEY}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", KEY, f"Basic {KEY}", "Bearer \u00e9"],
)
def test_no_answer_without_the_key(limited: ServerProcess, path: str, given: str | None) -> None:
    reply = limited.post(path, GOOD, {} if given is None else {"Authorization": given})
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert (reply.body.get("message") or reply.body["error"]) == (
        "this server needs its API key in the header Authorization: Bearer KEY"
    )


def test_the_key_opens_all_but_health_metrics_and_pages(limited: ServerProcess) -> None:
    assert limited.post("/rerank", GOOD, AUTHORIZED).status == 200
    assert limited.post("/rerank", GOOD, {"authorization": f"bearer  {KEY}"}).status == 200
    assert limited.get("/info").status == 401
    assert limited.send("GET", "/info", headers=AUTHORIZED).status == 200
    assert [limited.get(path).status for path in ("/health", "/metrics", "/docs", "/openapi.json")] == [200] * 4


def test_too_many_documents(limited: ServerProcess) -> None:
    reply = limited.post("/rerank", {"query": "fish", "texts": ["a"] * 6}, AUTHORIZED)
    assert (reply.status, reply.body["error_type"]) == (422, "Validation")
    assert reply.body["error"] == "texts: 6 are given, at most 5 are allowed"
    assert limited.post("/v1/rerank", {"query": "fish", "documents": ["a"] * 6}, AUTHORIZED).status == 400


def test_a_list_of_many_wrong_items_is_refused_at_once(limited: ServerProcess) -> None:
    for path, name in (("/rerank", "texts"), ("/v1/rerank", "documents"), ("/v2/rerank", "rank_fields")):
        reply = limited.post(path, {"query": "a", "documents": [], name: [1] * 5000}, AUTHORIZED)
        said = reply.body.get("message") or reply.body["error"]
        assert said == f"{name}: 5000 are given, at most 5 are allowed"


def test_a_body_that_is_too_large(limited: ServerProcess) -> None:
    longest = json.dumps(GOOD | {"more": ""}).encode()
    filled = longest[:-2] + b"a" * (MOST - len(longest)) + longest[-2:]
    assert len(filled) == MOST and limited.post("/rerank", filled, AUTHORIZED).status == 200
    reply = limited.post("/rerank", filled + b" ", AUTHORIZED)
    assert (reply.status, reply.body["error_type"]) == (413, "Validation")
    assert reply.body["error"] == "body: has more than 20,000 bytes; send fewer documents at a time"
    assert limited.post("/rerank", b" " * 10_000_000, AUTHORIZED).status == 413


def test_a_body_in_chunks_that_is_too_large_in_the_end(limited: ServerProcess) -> None:
    connection = http.client.HTTPConnection(limited.host, limited.port, timeout=20)
    chunks = (b" " * 1000 for _ in range(1000))
    connection.request(
        "POST", "/rerank", chunks, {"Content-Type": "application/json"} | AUTHORIZED, encode_chunked=True
    )
    assert connection.getresponse().status == 413
    connection.close()
    pieces = (json.dumps(GOOD).encode()[start : start + 7] for start in range(0, 100, 7))
    connection.request(
        "POST", "/rerank", pieces, {"Content-Type": "application/json"} | AUTHORIZED, encode_chunked=True
    )
    assert connection.getresponse().status == 200
    connection.close()


def test_no_body_is_read_without_need(limited: ServerProcess) -> None:
    """A client that asks first is refused before it sends."""
    with connected(limited) as connection:
        connection.sendall(head("Content-Length: 99999999", "Expect: 100-continue"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    with connected(limited) as connection:
        body = json.dumps(GOOD).encode()
        connection.sendall(head(f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert received(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_comes_too_slowly_is_408(limited: ServerProcess) -> None:
    with connected(limited) as connection:
        connection.sendall(head("Content-Length: 50") + b'{"query"')
        reply = received(connection)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"body: not complete after 3 seconds; send it faster" in reply


def test_connections_that_send_no_request_are_closed(limited: ServerProcess) -> None:
    heads = [b"", b"POST /rerank HTT", b"POST /rerank HTTP/1.1\r\nHost: a\r\n"]
    connections = [connected(limited) for _ in heads]
    for connection, sent in zip(connections, heads, strict=True):
        connection.sendall(sent)
    assert [received(connection) for connection in connections] == [b""] * 3
    for connection in connections:
        connection.close()


def test_a_connection_that_waits_after_an_answer_is_closed(limited: ServerProcess) -> None:
    ask = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    for more in (b"", ask[:9]):  # without another request, and with the beginning of one
        with connected(limited) as connection:
            connection.sendall(ask + more)
            began = time.monotonic()
            reply = received(connection)
            assert reply.startswith(b"HTTP/1.1 200 ") and reply.count(b"HTTP/1.1") == 1
            assert time.monotonic() - began < 15


def test_a_request_that_comes_byte_by_byte_is_cut(limited: ServerProcess) -> None:
    """The first one of a connection, and one that follows an answer; each byte comes before a wait would end."""
    for before in (b"", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"):
        with connected(limited) as connection:
            connection.sendall(before)
            sent, until = 0, time.monotonic() + 20
            connection.settimeout(0.3)
            reply, is_open = b"", True
            while is_open and time.monotonic() < until:
                try:
                    connection.sendall(b"P" if sent == 0 else b"O")
                    sent += 1
                    part = connection.recv(4096)
                    reply, is_open = reply + part, bool(part)
                except TimeoutError:
                    continue
                except OSError:
                    is_open = False
            assert not is_open and 3 < sent < 60
            assert reply.count(b"HTTP/1.1") == bool(before)


def test_requests_that_come_at_once_are_answered_in_turn(limited: ServerProcess) -> None:
    """The second one takes longer than a connection may wait for a request."""
    body = json.dumps({"query": "fish", "texts": [f"{n} " + "state space " * 200 for n in range(5)]}).encode()
    with connected(limited) as connection:
        connection.sendall(
            b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
            + head(f"Content-Length: {len(body)}", "Connection: close")
            + body
        )
        assert received(connection).count(b"HTTP/1.1 200 ") == 2


def test_a_client_that_reads_nothing_is_cut(limited: ServerProcess) -> None:
    with connected(limited) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Answers of megabytes, of which nothing is read.
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
        open_before = connections_of(limited)
        assert open_before >= 1
        until = time.monotonic() + 20
        while connections_of(limited) >= open_before and time.monotonic() < until:
            time.sleep(0.1)
        assert connections_of(limited) < open_before


def test_too_many_connections_are_closed(limited: ServerProcess) -> None:
    opened = [connected(limited) for _ in range(6)]
    try:
        time.sleep(0.2)
        with connected(limited) as another:
            assert received(another) == b""
    finally:
        for connection in opened:
            connection.close()
    until = time.monotonic() + 10
    while connections_of(limited) and time.monotonic() < until:
        time.sleep(0.05)
    assert limited.get("/health").status == 200


def connections_of(server: ServerProcess) -> int:
    """How many connections the server's process has open."""
    port = f":{server.port:04X}"
    table = Path(f"/proc/{server.process.pid}/net/tcp").read_text().splitlines()[1:]
    return sum(row.split()[1].endswith(port) and row.split()[3] == "01" for row in table)


def test_bodies_of_all_requests_have_a_limit() -> None:
    """While one body waits for its last bytes, there is no room for another."""
    bodies = Bodies(max_bytes=100, max_buffered=120, seconds=20, max_items=5)
    parts = [json.dumps(GOOD).encode()[:60], json.dumps(GOOD).encode()[60:]]

    def request(*messages: Any) -> Request:
        headers = [(b"content-type", b"application/json")]
        queue = iter(messages)

        async def receive() -> Any:
            return await next(queue)

        return Request({"type": "http", "method": "POST", "headers": headers}, receive)

    async def part(body: bytes, more: bool, after: asyncio.Event | None = None) -> dict[str, Any]:
        if after is not None:
            await after.wait()
        return {"type": "http.request", "body": body, "more_body": more}

    async def both() -> None:
        ended = asyncio.Event()
        first = asyncio.create_task(
            bodies.read(request(part(parts[0], True), part(parts[1], False, ended)), TeiRequest)
        )
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refusal:
            await bodies.read(request(part(b" " * 70, True), part(b"", False)), TeiRequest)
        assert refusal.value.problem is Problem.OVERLOADED
        ended.set()
        assert (await first).query == GOOD["query"]
        again = request(part(b" " * 40 + b"".join(parts), False))
        assert (await bodies.read(again, TeiRequest)).query == GOOD["query"]

    asyncio.run(both())
