"""Sockets and signals of the server: connections that are slow or too many are closed, SIGTERM lets requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import signal
import socket
from collections.abc import Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ssmrank.errors import UserError
from ssmrank.gc_control import gc_frozen
from ssmrank.serving.app import create_app
from ssmrank.serving.record import RequestLog
from ssmrank.serving.service import Service
from ssmrank.serving.settings import ServerSettings

log = logging.getLogger("ssmrank")

_BACKLOG = 512
_LAST_SECONDS = 5
"""How long a stopping server waits for the batch that runs and for answers to be sent, after its grace."""

_LEFT_SECONDS = 2.0
"""How much longer than a request may take a connection lives, so that the answer of a slow one still arrives."""


_ADVICE = {
    errno.EADDRINUSE: "stop the program that uses it, or give another --port",
    errno.EACCES: "give a --port from 1024 on",
    errno.EADDRNOTAVAIL: "give as --host an address of this machine",
}


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0: any free one. Raises UserError if it cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "is no name"
        raise UserError(f"--host {host}: {reason}; give an address of this machine, such as 127.0.0.1") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        advice = _ADVICE.get(error.errno or 0, "give another --host or --port")
        raise UserError(f"{host} port {port}: {error.strerror}; {advice}") from error
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def serve(service: Service, listener: socket.socket, request_log: RequestLog) -> None:
    """Answers requests until SIGTERM or SIGINT. What runs then is finished, what comes is refused with 503."""
    settings = service.settings

    class Connection(_Connection):
        limits = settings

    config = uvicorn.Config(
        create_app(service, request_log),
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # it may have a fraction
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    server = _Server(config, service)
    service.start()
    try:
        # A collection of all that was loaded would hold up every request for a tenth of a second.
        with gc_frozen():
            asyncio.run(server.serve([listener]))
    finally:
        service.stop()


class _Server(uvicorn.Server):
    """Goes on listening while requests are finished. A second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            log.info("%s at %s", self._service.name, address_of(listener))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            self.should_exit = self.force_exit = True
            return
        self._service.drain()
        asyncio.get_running_loop().call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._leaving = asyncio.ensure_future(self._finish())

    async def _finish(self) -> None:
        grace = self._service.settings.grace
        log.info("stopping: requests that were taken have %g seconds to finish", grace)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._service.idle.wait()
        self._service.abandon()
        self.should_exit = True


class _Connection(H11Protocol):
    """A connection that has to send its requests and take its answers in time."""

    limits: ServerSettings

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._accepted = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.limits.max_connections:
            self.transport = transport
            transport.abort()
            return
        self._accepted = True
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._accepted:
            super().data_received(data)
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._reading, self._writing):
            if timer is not None:
                timer.cancel()
        if self._accepted:
            super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self.limits.timeout, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP. The route that still reads the body must not answer too."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self._cut()

    def timeout_keep_alive_handler(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            return  # a request that came with the one before it is being answered
        if self.transport.get_write_buffer_size():
            self._cut()
        else:
            super().timeout_keep_alive_handler()

    def _watch(self) -> None:
        """Starts the timer with a request's first byte, and stops it with its last."""
        sending = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not sending and self._reading is not None:
            self._reading.cancel()
            self._reading = None
        elif sending and self._reading is None:
            self._reading = self.loop.call_later(self.limits.timeout + _LEFT_SECONDS, self._cut)

    def _cut(self) -> None:
        self.transport.abort()
