"""Requests that are wrong: each gets its status and one line, and the server goes on."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from http_client import Reply, ServerProcess

GOOD = {"query": "fish", "texts": ["Gills take up oxygen."]}


def said(reply: Reply) -> str:
    """The message of an error, in either form."""
    assert reply.headers["content-type"] == "application/json"
    message = reply.body.get("message") or reply.body["error"]
    assert message and "\n" not in message and len(message) < 300
    return message


def deep(brackets: str) -> bytes:
    return b'{"query": "a", "texts": ["b"], "more": ' + brackets.encode() * 100_000


NOT_JSON: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "body: is empty"),
    "blank": (b" \n", "body: is empty"),
    "no JSON": (b"query=fish", "body: malformed JSON"),
    "cut": (b'{"query": "fish", "texts": ["a"', "body: malformed JSON"),
    "two values": (json.dumps(GOOD).encode() * 2, "body: malformed JSON"),
    "not UTF-8": (b'{"query": "\xff", "texts": ["a"]}', "body: byte 12 is not UTF-8"),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), "is not UTF-8"),
    "NaN": (b'{"query": "a", "texts": ["b"], "raw_scores": NaN}', "it has no NaN"),
    "infinity": (b'{"query": "a", "texts": ["b"], "more": -Infinity}', "it has no -Infinity"),
    "repeated key": (b'{"query": "a", "query": "b", "texts": ["c"]}', "key 'query' appears twice"),
    "deep lists": (deep("["), "nested too deep"),
    "deep objects": (deep('{"a": '), "nested too deep"),
    "long number": (b'{"query": "a", "texts": ["b"], "more": ' + b"9" * 5000 + b"}", "4,300 digits"),
}


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("case", NOT_JSON)
def test_a_body_that_is_no_json(server: ServerProcess, path: str, case: str) -> None:
    body, message = NOT_JSON[case]
    reply = server.post(path, body)
    assert reply.status == 400
    assert message in said(reply)


VALUES: dict[str, tuple[Any, str]] = {
    "a list": ([GOOD], "body: is a list; send a JSON object"),
    "a string": ("fish", "body: is a string"),
    "null": (None, "body: is null"),
    "no query": ({"texts": ["a"]}, "query: is missing; add it"),
    "query is null": ({"query": None, "texts": ["a"]}, "query: input should be a valid string, but is null"),
    "query is a number": ({"query": 3, "texts": ["a"]}, "query: input should be a valid string, but is a number"),
    "query is a list": ({"query": ["a"], "texts": ["a"]}, "query: input should be a valid string, but is a list"),
    "texts is a string": ({"query": "a", "texts": "b"}, "texts: input should be a valid list, but is a string"),
    "a text is a number": ({"query": "a", "texts": ["b", 1]}, "texts[1]: input should be a valid string"),
    "a text is an object": ({"query": "a", "texts": [{"text": "b"}]}, "texts[0]: input should be a valid string"),
    "a flag is a string": (GOOD | {"raw_scores": "yes"}, "raw_scores: input should be a valid boolean"),
    "a flag is a number": (GOOD | {"return_text": 1}, "return_text: input should be a valid boolean"),
    "an unknown side": (GOOD | {"truncation_direction": "up" * 900}, "truncation_direction: input should be 'Left'"),
    "half a character": ({"query": "a", "texts": ["b", "c\ud83d"]}, "texts[1]: character 1 is half of a pair"),
    "half a character in the query": (GOOD | {"query": "\udc00"}, "query: character 0 is half of a pair"),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_of_wrong_kinds(server: ServerProcess, case: str) -> None:
    values, message = VALUES[case]
    reply = server.post("/rerank", json.dumps(values).encode())
    assert reply.status == 422
    assert reply.body["error_type"] == "Validation"
    assert said(reply).startswith(message)


COHERE_VALUES: dict[str, tuple[Any, str]] = {
    "no documents": ({"query": "a"}, "documents: is missing; add it"),
    "a document without text": ({"query": "a", "documents": ["b", {"title": "c"}]}, 'documents[1]: has no "text"'),
    "a document is a number": ({"query": "a", "documents": [7]}, "documents[0]: input should be a valid string"),
    "top_n is negative": (
        {"query": "a", "documents": ["b"], "top_n": -1},
        "top_n: input should be greater than or equal to 0, but is -1",
    ),
    "top_n is true": ({"query": "a", "documents": ["b"], "top_n": True}, "top_n: input should be a valid integer"),
    "top_n is a fraction": (
        {"query": "a", "documents": ["b"], "top_n": 1.5},
        "top_n: input should be a valid integer, but is 1.5",
    ),
    "top_n is a text": (
        {"query": "a", "documents": ["b"], "top_n": "secret"},
        "top_n: input should be a valid integer, but is a string",
    ),
    "another field": ({"query": "a", "documents": ["b"], "rank_fields": ["title"]}, "rank_fields[0]: input should be"),
    "no document": ({"query": "a", "documents": []}, "documents: is empty"),
}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("case", COHERE_VALUES)
def test_values_of_wrong_kinds_in_coheres_form(server: ServerProcess, path: str, case: str) -> None:
    values, message = COHERE_VALUES[case]
    reply = server.post(path, values)
    assert reply.status == 400
    assert said(reply).startswith(message)
    assert reply.body["error"] | {"type": ""} == {
        "message": reply.body["message"], "type": "", "param": None, "code": 400,
    }  # fmt: skip


def test_no_texts(server: ServerProcess) -> None:
    reply = server.post("/rerank", {"query": "a", "texts": []})
    assert (reply.status, reply.body) == (400, {"error": "`texts` cannot be empty", "error_type": "Empty"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/jsonlines"},
        {"Content-Type": ""},
        {"Content-Encoding": "gzip"},
    ],
    ids=str,
)
def test_a_body_of_another_type(server: ServerProcess, headers: dict[str, str]) -> None:
    reply = server.post("/rerank", GOOD, headers)
    assert reply.status == 415
    assert said(reply).startswith("header Content-")


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
def test_types_that_are_json(server: ServerProcess, kind: str) -> None:
    assert server.post("/rerank", GOOD, {"Content-Type": kind}).status == 200


def test_unknown_fields_are_ignored_as_other_servers_do(server: ServerProcess) -> None:
    assert server.post("/rerank", GOOD | {"model": "x", "user": {"a": 1}}).status == 200


def test_odd_texts_are_texts(server: ServerProcess) -> None:
    texts = ["", " ", "\x00", "\ufeff", "\ufffe", "a" * 50_000, "𝒳 ﷽ e\u0301", "</s>[SEP]<|endoftext|>", "\r\n" * 99]
    for query in texts:
        ranks = server.post("/rerank", {"query": query, "texts": texts, "return_text": True}).body
        assert {rank["index"]: rank["text"] for rank in ranks} == dict(enumerate(texts))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/rerank", 405),
        ("PUT", "/v1/rerank", 405),
        ("POST", "/health", 405),
        ("FROB", "/rerank", 405),
        ("POST", "/rerank/", 404),
        ("POST", "/v3/rerank", 404),
        ("POST", "/v1/../rerank", 404),
        ("GET", "/" + "a" * 5000, 404),
        ("GET", "/%00%ff", 404),
    ],
)
def test_unknown_paths_and_methods(server: ServerProcess, method: str, path: str, status: int) -> None:
    reply = server.send(method, path)
    assert reply.status == status
    said(reply)
    assert ("allow" in reply.headers) == (status == 405)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000,
        b"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["TLS", "words", "no host", "long head", "negative length", "two lengths", "no chunk"],
)
def test_what_is_no_http_is_400_and_the_end(server: ServerProcess, sent: bytes) -> None:
    with socket.create_connection((server.host, server.port), 10) as connection:
        connection.sendall(sent)
        reply = b""
        while part := connection.recv(4096):
            reply += part
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert server.get("/health").status == 200
