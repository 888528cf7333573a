"""What is recorded of each request: a line of JSON on standard output, and metrics. Neither has any of its text."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO


@dataclass
class Record:
    """What is known of a request. Times are in milliseconds.

    route: the route's own path, never the request's; documents, tokens: of its pairs; cached: documents that were
    found; queue, compute: until its first batch began, and from there until its last score.
    """

    route: str = "unknown"
    status: int = 0
    problem: str | None = None
    bytes: int = 0
    documents: int | None = None
    cached: int | None = None
    tokens: int | None = None
    queue_ms: float | None = None
    compute_ms: float | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time since the request's head was read."""
        return time.perf_counter() - self.began

    def line(self, method: str) -> str:
        """The record as a line of JSON, without what is not known."""
        values: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": self.id,
            "method": method,
            "route": self.route,
            "status": self.status,
            "problem": self.problem,
            "bytes": self.bytes,
            "documents": self.documents,
            "cached": self.cached,
            "tokens": self.tokens,
            "queue_ms": self.queue_ms,
            "compute_ms": self.compute_ms,
            "total_ms": round(1000 * self.seconds, 1),
        }
        return json.dumps({name: value for name, value in values.items() if value is not None})


class RequestLog:
    """Writes the lines; a reader that has gone is no reason to stop serving."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        """Writes a line at once."""
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                pass


def record_of(scope: MutableMapping[str, Any]) -> Record:
    """The record of the request of an ASGI scope."""
    return scope["state"]["record"]
