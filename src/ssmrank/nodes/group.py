"""The launchers of one training, one in each Slurm task: they wait for each other, and end together.

The first one waits at an address that all know, and each of the others keeps a connection to it for as long as the
training runs. If a launcher or its whole node is lost, the system closes the connection, or finds within LOST_SECONDS
that nobody answers. The first launcher decides when the training is over and reports why; if it is lost itself, the
second one reports that.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ssmrank.errors import UserError
from ssmrank.nodes.slurm import LOOPBACK, Task

log = logging.getLogger(__name__)

JOIN_SECONDS = "SSMRANK_JOIN_SECONDS"
"""Environment variable: how long launchers wait for each other at the start (default: 300 seconds)."""

LOST_SECONDS = 20
"""A node that does not answer for so long is lost."""

_LEAVE_SECONDS = 10.0
"""How long the first launcher waits until the others have stopped their processes."""

_LARGEST = 1 << 20
"""Bytes of a message."""

_GREETING = "ssmrank"

Statuses = Sequence[int | None]
"""Exit statuses of processes: negative for a signal, None for one that runs."""


class First:
    """The launcher of the first task."""

    def __init__(self, task: Task, listening: socket.socket) -> None:
        self.task = task
        self.sizes: list[int] = []
        """How many processes each launcher has, by task."""
        self.statuses: list[list[int | None]] = [[] for _ in range(task.count)]
        """Of all processes, by task."""
        self.said: list[str] = [""] * task.count
        """What a failed process of a task said last."""
        self.lost: dict[int, str] = {}
        """Tasks whose launchers have gone before the end, and how."""
        self._nodes = [task.node] * task.count
        self._stopped: set[int] = set()
        self._errors: list[str] = []
        self._connections: dict[int, Connection] = {}
        with listening:
            self._accept(listening, time.monotonic() + join_seconds())

    def start(self, processes: int, store_port: int) -> None:
        """Waits until all launchers are ready to start their processes, and tells them where the store is.

        processes: how many this one starts. Raises UserError if another one reports an error, or is not ready in time.
        """
        self.sizes = [processes] + [0] * (self.task.count - 1)
        end = time.monotonic() + join_seconds()
        while 0 in self.sizes and time.monotonic() < end:
            self.receive(0.1)
            self._raise_errors()
        if 0 in self.sizes:
            node = self._nodes[self.sizes.index(0)]
            raise UserError(f"node {node} did not start its processes within {join_seconds():.0f} s; look at that node")
        self._tell({"port": store_port, "sizes": self.sizes})
        self.statuses = [[None] * size for size in self.sizes]

    def receive(self, seconds: float = 0.0) -> None:
        """Takes what the others have sent; waits at most `seconds` for the first message."""
        for connection in wait(list(self._connections.values()), seconds):
            assert isinstance(connection, Connection)
            task = next(task for task, one in self._connections.items() if one is connection)
            message = _receive(connection)
            if message is None:
                self._connections.pop(task).close()
                if task not in self._stopped:
                    self.lost.setdefault(task, "no longer answers")
            elif "statuses" in message:
                self.statuses[task], self.said[task] = message["statuses"], message["said"]
            elif "processes" in message:
                self.sizes[task] = message["processes"]
            elif message.get("error"):
                self._errors.append(message["error"])
                self._stopped.add(task)
            else:
                self.lost[task] = "was stopped"

    def node_of(self, task: int) -> str:
        """The name of a task's node."""
        return self._nodes[task]

    def leave(self, reason: str | None) -> None:
        """Ends the others, or if `reason` is None lets them end; an error here is the reason."""
        self._tell({"over": reason is None})
        # Closing a connection with unread messages would lose what was just sent.
        end = time.monotonic() + _LEAVE_SECONDS
        while self._connections and time.monotonic() < end:
            self.receive(0.1)

    def _accept(self, listening: socket.socket, end: float) -> None:
        task = self.task
        while len(self._connections) < task.count - 1:
            listening.settimeout(max(0.01, end - time.monotonic()))
            try:
                connection = _connected(listening.accept()[0])
            except TimeoutError:
                self._tell({"over": False})
                missing = [str(n) for n in range(1, task.count) if n not in self._connections]
                raise UserError(
                    f"{_tasks(missing)} of Slurm's step {task.step} did not come to {task.address}:{task.port} within "
                    f"{join_seconds():.0f} s; check that the nodes reach each other, or set MASTER_ADDR and MASTER_PORT"
                ) from None
            self._greet(connection)

    def _greet(self, connection: Connection) -> None:
        """Takes a launcher of this step as one of the group, and closes all other connections."""
        _send(connection, {"is": _GREETING, "step": self.task.step})
        hello = _receive(connection, 5.0)
        known = hello is not None and hello.get("step") == self.task.step and hello.get("count") == self.task.count
        rank = hello.get("rank") if hello is not None and known else None
        if hello is None or not isinstance(rank, int) or not 0 < rank < self.task.count or rank in self._connections:
            connection.close()
            return
        self._connections[rank], self._nodes[rank] = connection, hello["node"]

    def _raise_errors(self) -> None:
        if self._errors:
            raise UserError(self._errors[0])
        for task, how in self.lost.items():
            raise UserError(f"node {self._nodes[task]} (task {task} of {self.task.count}) {how} before the start")

    def _tell(self, message: dict[str, Any]) -> None:
        for connection in self._connections.values():
            _send(connection, message)


class Other:
    """The launcher of any other task."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.sizes: list[int] = []
        """How many processes each launcher has, by task."""
        self.over: bool | None = None
        """What the first launcher says of the whole training: True if it has ended well, False if it failed."""
        self.alone = False
        """Whether the first launcher is lost."""
        self._connection = self._connect(time.monotonic() + join_seconds())
        self._sent: Statuses = []

    def start(self, processes: int) -> int:
        """Waits until all launchers are ready to start their processes; returns the port of the processes' store.

        processes: how many this one starts. Raises SystemExit if the first one has found an error.
        """
        _send(self._connection, {"processes": processes})
        end = time.monotonic() + join_seconds() + _LEAVE_SECONDS
        message = _receive(self._connection, end - time.monotonic())
        if message is None or "port" not in message:
            self.over = False
            raise SystemExit(2)
        self.sizes = message["sizes"]
        port: int = message["port"]
        return port

    def report(self, statuses: Statuses, said: str) -> None:
        """Sends the statuses of this launcher's processes if they are new, and takes what the first one says."""
        if statuses != self._sent:
            self._sent = list(statuses)
            _send(self._connection, {"statuses": self._sent, "said": said})
        if self.over is None and self._connection.poll():
            message = _receive(self._connection)
            self.alone = message is None
            self.over = False if message is None else bool(message.get("over"))

    def leave(self, reason: str | None) -> None:
        """Leaves the others; reason: an error here, which the first launcher reports, or None."""
        if reason is not None and self.over is None:
            _send(self._connection, {"error": reason})
            # The first one waits for this end after it has read the reason.
            self._connection.poll(_LEAVE_SECONDS)
        self._connection.close()

    def _connect(self, end: float) -> Connection:
        task = self.task
        while time.monotonic() < end:
            try:
                connection = _connected(socket.create_connection((task.address, task.port), timeout=5.0))
            except OSError:
                time.sleep(0.2)
                continue
            greeting = _receive(connection, 5.0)
            if greeting is not None and greeting.get("is") == _GREETING and greeting.get("step") == task.step:
                hello = {"step": task.step, "count": task.count, "rank": task.rank, "node": task.node}
                if _send(connection, hello):
                    return connection
            connection.close()
            time.sleep(0.2)
        # The first launcher reports it as an error; this one would only repeat it.
        log.warning("node %s: no answer from %s:%d, where the first task should be", task.node, task.address, task.port)
        raise SystemExit(2)


@contextmanager
def joined(task: Task) -> Iterator[First | Other]:
    """The group of this task's launcher. An error here ends the others too, and the first one reports it.

    Raises UserError if the others do not come, or if the port is taken.
    """
    group: First | Other = First(task, _listen(task)) if task.rank == 0 else Other(task)
    try:
        yield group
    except UserError as error:
        if isinstance(group, First) and threading.current_thread() is threading.main_thread():
            # Slurm may stop this task as soon as another has left, before the error is printed.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        group.leave(str(error))
        if isinstance(group, Other) and not group.alone:
            raise SystemExit(2) from None
        raise
    except BaseException:
        group.leave("")
        raise
    group.leave(None)


def join_seconds() -> float:
    """How long launchers wait for each other at the start."""
    value = os.environ.get(JOIN_SECONDS, "300")
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UserError(f"{JOIN_SECONDS} is {value[:40]!r}; set it to a number of seconds")
    return seconds


def listening_socket(port: int, loopback: bool) -> socket.socket:
    """A socket that listens on this port, or for 0 on any free one: on loopback alone, or for all hosts."""
    if loopback:
        return socket.create_server((LOOPBACK, port), backlog=1024)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=1024)


def _listen(task: Task) -> socket.socket:
    try:
        return listening_socket(task.port, task.is_on_one_host)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        raise UserError(
            f"port {task.port} of node {task.node} cannot be used ({os.strerror(number) if number else error}); set "
            "MASTER_PORT to a free one"
        ) from error


def _connected(one: socket.socket) -> Connection:
    """A connection for messages, which ends if the other side does not answer for LOST_SECONDS."""
    with one:
        one.settimeout(None)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 1000 * LOST_SECONDS}
        for name, value in options.items():
            if hasattr(socket, name):  # not all of them on all systems
                one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return Connection(one.detach())


def _send(connection: Connection, message: dict[str, Any]) -> bool:
    """Sends a message; False if the other side has gone, which the next `_receive` finds too."""
    with suppress(OSError):
        connection.send_bytes(json.dumps(message).encode())
        return True
    return False


def _receive(connection: Connection, seconds: float | None = None) -> dict[str, Any] | None:
    """The next message; None if the other side has gone, says something else, or says nothing for `seconds`."""
    try:
        if seconds is not None and not connection.poll(max(0.0, seconds)):
            return None
        message = json.loads(connection.recv_bytes(_LARGEST))
    except (OSError, EOFError, ValueError):
        return None
    return message if isinstance(message, dict) else None


def _tasks(numbers: Sequence[str]) -> str:
    shown = ", ".join(numbers[:5]) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    return f"task {shown}" if len(numbers) == 1 else f"tasks {shown}"
