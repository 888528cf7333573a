"""Reads a request's body: in time, not too large, strict JSON, and of the right form."""

from __future__ import annotations

import asyncio
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from ssmrank.errors import UserError, shown
from ssmrank.io.plain import parse_json
from ssmrank.serving.problems import Problem, Refusal

Form = TypeVar("Form", bound=BaseModel)

_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;\s*charset=\"?utf-?8\"?\s*)?", re.IGNORECASE)
_DISCARDED_SECONDS = 5.0
"""How long the rest of a body that is too large is read and thrown away.

A client that still sends when its connection closes does not see the answer.
"""


class Bodies:
    """Reads bodies, of all requests together at most `max_buffered` bytes at a time.

    max_bytes: of one body; seconds: how long a body may take; max_items: of a list.
    """

    def __init__(self, max_bytes: int, max_buffered: int, seconds: float, max_items: int) -> None:
        self._max_bytes, self._max_buffered, self._seconds = max_bytes, max_buffered, seconds
        self._max_items = max_items
        self._buffered = 0

    async def read(self, request: Request, form: type[Form]) -> Form:
        """The body of a request, validated. Raises Refusal, or ClientDisconnect."""
        _check_headers(request)
        values = parsed(await self._body(request))
        for name in form.model_fields:
            items = values.get(name)
            # Before the items are looked at: a list of a million wrong ones would be a million errors.
            if isinstance(items, list) and len(items) > self._max_items:
                most = self._max_items
                raise Refusal(Problem.VALUE, f"{name}: {len(items)} are given, at most {most} are allowed")
        return validated(form, values)

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                announced = request.headers.get("content-length", "")
                if announced.isdecimal() and int(announced) > self._max_bytes:
                    if "expect" not in request.headers:  # otherwise the client waits for leave to send it
                        await _discard(request)
                    raise _too_large(self._max_bytes)
                async for chunk in request.stream():
                    body += chunk
                    self._buffered += len(chunk)
                    await self._check(request, body)
        except TimeoutError:
            message = f"body: not complete after {self._seconds:g} seconds; send it faster"
            raise Refusal(Problem.SLOW, message) from None
        finally:
            self._buffered -= len(body)
        return bytes(body)

    async def _check(self, request: Request, body: bytearray) -> None:
        if len(body) > self._max_bytes:
            refusal = _too_large(self._max_bytes)
        elif self._buffered > self._max_buffered:
            refusal = Refusal(Problem.OVERLOADED, "many large requests come in; try again later", {"Retry-After": "1"})
        else:
            return
        self._buffered -= len(body)
        body.clear()
        await _discard(request)
        raise refusal


def parsed(body: bytes) -> dict[str, Any]:
    """The object in a body; raises Refusal if it is not strict JSON in UTF-8."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(Problem.SYNTAX, f"body: byte {error.start + 1} is not UTF-8; send JSON in UTF-8") from None
    if not text.strip():
        raise Refusal(Problem.SYNTAX, "body: is empty; send a JSON object")
    try:
        values = parse_json(text, "body", finite=True)
    except UserError as error:
        raise Refusal(Problem.SYNTAX, str(error)) from None
    if not isinstance(values, dict):
        raise Refusal(Problem.VALUE, f"body: is {_kind(values)}; send a JSON object")
    return values


def validated(form: type[Form], values: dict[str, Any]) -> Form:
    """The values as a form; raises Refusal with one line that names the first wrong field."""
    try:
        return form.model_validate(values)
    except ValidationError as error:
        raise Refusal(Problem.VALUE, _explained(error)) from None


def check_text(name: str, text: str) -> None:
    """Raises Refusal for half of a surrogate pair, which no tokenizer can read."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{name}: character {error.start} is half of a pair (a surrogate); send the whole character"
        raise Refusal(Problem.VALUE, message) from None


def _check_headers(request: Request) -> None:
    kind = request.headers.get("content-type")
    if kind is None or not _JSON.fullmatch(kind.strip()):
        found = "is missing" if kind is None else f"is {shown(kind)}"
        raise Refusal(Problem.MEDIA_TYPE, f"header Content-Type {found}; send application/json in UTF-8")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refusal(Problem.MEDIA_TYPE, f"header Content-Encoding is {shown(encoding)}; send the body as it is")


async def _discard(request: Request) -> None:
    try:
        async with asyncio.timeout(_DISCARDED_SECONDS):
            while (message := await request.receive())["type"] == "http.request":
                if not message.get("more_body", False):
                    return
            raise ClientDisconnect
    except TimeoutError:
        pass


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(Problem.TOO_LARGE, f"body: has more than {max_bytes:,} bytes; send fewer documents at a time")


def _explained(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "missing":
        return f"{field}: is missing; add it"
    if first["type"] == "value_error":
        return f"{field}: {first['ctx']['error']}"
    said, given = first["msg"][0].lower() + first["msg"][1:], first["input"]
    # A number in the place of one is wrong by its value; what is in the place of a text is not shown.
    of_kind = first["type"] == "int_type" or not first["type"].endswith("_type")
    is_value = isinstance(given, int | float) and not isinstance(given, bool) and of_kind
    return f"{field}: {said}, but is {shown(given) if is_value else _kind(given)}"


def _kind(value: Any) -> str:
    """What a value of a body is, without its text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds[type(value)]
