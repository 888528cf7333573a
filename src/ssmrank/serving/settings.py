"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSettings:
    """Limits of a server. Times are in seconds.

    max_bytes: of a request's body; max_documents: of one request; max_requests: that wait or are computed, further ones
    get 429; max_connections: open at once, further ones are closed; timeout: for reading a request, and again for
    answering it; keep_alive: how long a connection may wait for another request; window: how long the first request of
    an idle server waits for others to join its batch; batch_tokens: the most tokens of a batch; grace: how long a
    stopping server may take to finish its requests; api_key: what a client has to send, None: nothing.
    """

    max_bytes: int = 2_000_000
    max_documents: int = 1000
    max_requests: int = 128
    max_connections: int = 512
    timeout: float = 60.0
    keep_alive: float = 30.0
    window: float = 0.002
    batch_tokens: int = 4096
    grace: float = 30.0
    api_key: str | None = None
