"""Processes of one machine under PyTorch's elastic agent, which torchrun uses too.

The agent starts them, passes on where their store is, and kills whole groups of processes. Two things differ from
torchrun: its store listens on loopback alone, and our caller decides when a failure ends the others.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.distributed import Store, TCPStore
from torch.distributed.elastic.agent.server import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo
from typing_extensions import override

_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
_HANDLED = "TORCHELASTIC_SIGNALS_TO_HANDLE"

Statuses = list[int | None]
"""Exit statuses by rank: negative for a signal, None for a process that runs."""


def run(command: Sequence[str], processes: int, folder: str, is_over: Callable[[Statuses], bool]) -> Statuses:
    """Runs a command in this many processes until all have ended well or `is_over`, and kills those that are left.

    Returns the statuses before that. The standard error of all processes but the first goes to files, see `error_file`.
    At a signal that would end this process, it kills all and raises SystemExit, or KeyboardInterrupt for SIGINT.
    """
    handler = _Loopback()
    # The agent replaces ${local_rank} in arguments.
    first, *rest = (word.replace("$", "$$") for word in command)
    spec = WorkerSpec("ssmrank", processes, handler, entrypoint=first, args=tuple(rest), max_restarts=0)
    logs = DefaultLogsSpecs(log_dir=folder, redirects={rank: Std.ERR for rank in range(1, processes)})
    agent = _Agent(spec, logs, is_over)
    with _signals():
        _silence()
        agent.run()
    return agent.statuses


def error_file(folder: str, rank: int) -> str:
    """The file of a process's standard error."""
    [run_folder] = (entry.path for entry in os.scandir(folder) if entry.is_dir())
    return os.path.join(run_folder, "attempt_0", str(rank), "stderr.log")


class _Agent(LocalElasticAgent):
    def __init__(self, spec: WorkerSpec, logs: DefaultLogsSpecs, is_over: Callable[[Statuses], bool]) -> None:
        super().__init__(spec, logs)
        self._is_over = is_over
        self.statuses: Statuses = []

    @override
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        handlers: dict[int, Any] = getattr(self._pcontext, "subprocess_handlers", {})
        self.statuses = [handlers[rank].proc.poll() for rank in sorted(handlers)]
        if all(status == 0 for status in self.statuses):
            return super()._monitor_workers(worker_group)
        return RunResult(state=WorkerState.FAILED if self._is_over(self.statuses) else WorkerState.HEALTHY)

    @override
    def _shutdown(self, *_: Any, **__: Any) -> None:
        # Safe: a training may be killed at any time. One that waits for others does not react to SIGTERM.
        super()._shutdown(signal.SIGKILL)

    @override
    def _record_worker_events(self, result: RunResult) -> None:
        """Nobody reads them, and they ask for the host's name, which may take seconds."""


class _Loopback(RendezvousHandler):
    """One machine, whose processes use a store of this process on a free port of loopback."""

    def __init__(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            bound.listen()
            self._port: int = bound.getsockname()[1]
            listening = bound.detach()  # the store closes it
        self._store: Store = TCPStore(
            "127.0.0.1", self._port, is_master=True, wait_for_workers=False, master_listen_fd=listening
        )
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
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo("127.0.0.1", self._port))

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
