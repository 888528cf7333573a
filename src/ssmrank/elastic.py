"""Processes of one machine under PyTorch's elastic agent, which torchrun uses too.

The agent starts them, passes on where their store is, and kills whole groups of processes. Two things differ from
torchrun: the store of processes on one host listens on loopback alone, and our caller decides when all is over.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.distributed import DistError, Store, TCPStore
from torch.distributed.elastic.agent.server import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo
from typing_extensions import override

from ssmrank.errors import UserError, reason_of

_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
_HANDLED = "TORCHELASTIC_SIGNALS_TO_HANDLE"
_LOOPBACK = "127.0.0.1"

Statuses = list[int | None]
"""Exit statuses by rank: negative for a signal, None for a process that runs."""


@dataclass(frozen=True)
class Meeting:
    """Where the processes of several launchers meet: a store, which the first launcher has at this address and port.

    This launcher is number `rank` of `count`.
    """

    store: Store
    rank: int
    count: int
    address: str
    port: int


def run(
    command: Sequence[str],
    processes: int,
    folder: str,
    is_over: Callable[[Statuses], bool | None],
    meeting: Meeting | None = None,
) -> None:
    """Runs a command in this many processes until `is_over` is not None for their statuses, and kills those left.

    `is_over`, which is asked again and again, is True if all have ended well, False after a failure. meeting: None for
    processes of this launcher alone.

    The standard error of all processes but the very first goes to files, see `error_file`. At a signal that would end
    this process, it kills all and raises SystemExit, or KeyboardInterrupt for SIGINT.
    """
    # The agent replaces ${local_rank} in arguments.
    first, *rest = (word.replace("$", "$$") for word in command)
    handler = _Rendezvous(meeting or alone())
    spec = WorkerSpec("ssmrank", processes, handler, entrypoint=first, args=tuple(rest), max_restarts=0)
    shown = 0 if meeting is not None and meeting.rank > 0 else 1
    logs = DefaultLogsSpecs(log_dir=folder, redirects={rank: Std.ERR for rank in range(shown, processes)})
    agent = _Agent(spec, logs, is_over)
    with _signals():
        _silence()
        agent.run()


def alone() -> Meeting:
    """A meeting of one launcher, on a free port of loopback."""
    listening = socket.create_server((_LOOPBACK, 0))
    return meeting_of_first(1, _LOOPBACK, listening)


def meeting_of_first(count: int, address: str, listening: socket.socket) -> Meeting:
    """The meeting of `count` launchers, in the first of them. Its store takes over the listening socket."""
    port: int = listening.getsockname()[1]
    store = TCPStore(
        address, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )  # it closes the socket
    return Meeting(store, 0, count, address, port)


def meeting_of_other(rank: int, count: int, address: str, port: int) -> Meeting:
    """The same in another launcher. Raises UserError if the store does not answer."""
    try:
        return Meeting(TCPStore(address, port, is_master=False, wait_for_workers=False), rank, count, address, port)
    except DistError as error:
        raise UserError(
            f"{address}:{port}, the store of the first task, does not answer ({reason_of(error)})"
        ) from None


def error_file(folder: str, rank: int) -> str:
    """The file of the standard error of a process of this launcher."""
    [run_folder] = (entry.path for entry in os.scandir(folder) if entry.is_dir())
    return os.path.join(run_folder, "attempt_0", str(rank), "stderr.log")


class _Agent(LocalElasticAgent):
    def __init__(self, spec: WorkerSpec, logs: DefaultLogsSpecs, is_over: Callable[[Statuses], bool | None]) -> None:
        super().__init__(spec, logs)
        self._is_over = is_over

    @override
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        handlers: dict[int, Any] = getattr(self._pcontext, "subprocess_handlers", {})
        over = self._is_over([handlers[rank].proc.poll() for rank in sorted(handlers)])
        if over:
            return super()._monitor_workers(worker_group)
        return RunResult(state=WorkerState.HEALTHY if over is None else WorkerState.FAILED)

    @override
    def _exit_barrier(self) -> None:
        """All processes of all launchers have ended."""

    @override
    def _shutdown(self, *_: Any, **__: Any) -> None:
        # Safe: a training may be killed at any time. One that waits for others does not react to SIGTERM.
        super()._shutdown(signal.SIGKILL)

    @override
    def _record_worker_events(self, result: RunResult) -> None:
        """Nobody reads them, and they ask for the host's name, which may take seconds."""


class _Rendezvous(RendezvousHandler):
    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting
        self._id = uuid.uuid4().hex

    @property
    @override
    def use_agent_store(self) -> bool:
        return True

    @override
    def get_backend(self) -> str:
        return "c10d"

    @override
    def next_rendezvous(self) -> RendezvousInfo:
        found = self._meeting
        return RendezvousInfo(found.store, found.rank, found.count, RendezvousStoreInfo(found.address, found.port))

    @override
    def is_closed(self) -> bool:
        return False

    @override
    def set_closed(self) -> None:
        pass

    @override
    def num_nodes_waiting(self) -> int:
        return 0

    @override
    def get_run_id(self) -> str:
        return self._id

    @override
    def shutdown(self) -> bool:
        return True


@contextmanager
def _signals() -> Iterator[None]:
    """Ends the block as the signal would have ended this process; afterwards signals do what they did before."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in _SIGNALS}
    os.environ[_HANDLED] = ",".join(name for name, handler in before.items() if handler != signal.SIG_IGN)
    try:
        yield
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.sigval) from None
    finally:
        del os.environ[_HANDLED]
        for name, handler in before.items():
            if handler is not None and signal.getsignal(getattr(signal, name)) is not handler:
                signal.signal(getattr(signal, name), handler)


def _silence() -> None:
    """The launcher reports a failure itself, in one line."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
