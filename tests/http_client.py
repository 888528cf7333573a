"""Starts `ssmrank serve` as a process of its own, and sends it requests."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

START_SECONDS = 120


class Reply(NamedTuple):
    """A response; body is None if it is no JSON."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class ServerProcess:
    """A running server. lines: its request log so far."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, host: str, port: int) -> None:
        self.process, self._folder, self.host, self.port = process, folder, host, port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self._folder / "stdout").read_text().split("\n")[:-1]]

    def line_of(self, reply: Reply) -> dict[str, Any]:
        """The line of a request. It is written after the answer, so this waits for it."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if found := [line for line in self.lines if line["id"] == reply.headers["x-request-id"]]:
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"no line of {reply.headers['x-request-id']}")

    @property
    def said(self) -> str:
        return (self._folder / "stderr").read_text()

    def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout: float = 120
    ) -> Reply:
        """Sends a request; bytes are sent as they are, anything else as JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            given = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body, given | dict(headers or {}))
            reply = connection.getresponse()
            return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None, timeout: float = 120) -> Reply:
        return self.send("POST", path, body, headers, timeout)

    def get(self, path: str) -> Reply:
        return self.send("GET", path)

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Sends a signal and returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def serving(model: Path, *options: str, **environment: str) -> Iterator[ServerProcess]:
    """A server of a model at a free port; it is stopped afterwards, and its log must have no traceback."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "ssmrank", "serve", "--model", str(model), "--port", "0", *options]
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | environment)
        try:
            server = ServerProcess(process, folder, *_address(process, folder / "stderr"))
            yield server
            if process.poll() is None:
                server.end()
            assert "Traceback" not in server.said, server.said
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], said: Path) -> tuple[str, int]:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r" at http://([\d.]+):(\d+)", said.read_text()):
            return found[1], int(found[2])
        time.sleep(0.05)
    raise AssertionError(f"the server did not start: {said.read_text()}")
