"""One run at a time in a folder. What a killed run left is removed; a live run is named.

The active run holds a lock on `.snakemake/run.lock`, which the system releases when the process ends, however it ends.
The file names its holder: process, process start, host, time and command. Snakemake's own lock outlives a killed run,
and a run that ends removes the locks of all others. So this module removes Snakemake's lock when nobody holds this one.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import slurm
from ssmrank import lifetime
from ssmrank.errors import UserError
from ssmrank.io.atomic import disk_errors
from ssmrank.io.leftovers import sweep
from ssmrank.io.locks import hold

LOCK = Path(".snakemake/run.lock")
SNAKEMAKE_LOCKS = Path(".snakemake/locks")
SWEPT = ["data", "results", ".snakemake"]
"""Folders that jobs write to."""


class Alone:
    """This process's claim on the folder.

    A process that may run jobs takes the lock before it plans. Others wait until it is known whether it runs any, so
    two processes never clear or record at the same time. A dry run writes nothing and needs no lock.
    """

    def __init__(self, also: Sequence[str] = ()) -> None:
        """`also`: folders that jobs write to, besides `SWEPT`."""
        self._swept = [*SWEPT, *also]
        self._descriptor: int | None = None
        self._former: dict[str, Any] = {}

    @property
    def holds(self) -> bool:
        """Whether no other process runs jobs here."""
        return self._descriptor is not None

    def claim(self) -> None:
        """Takes the lock unless another process runs jobs; waits while another one plans."""
        with disk_errors(LOCK):
            LOCK.parent.mkdir(exist_ok=True)
            waiting = 0
            while not self._take() and not _holder().get("runs"):
                waiting += 1
                if waiting == 50:
                    print(f"ssmrank: waiting for {_name(_holder())}, which plans", file=sys.stderr)
                time.sleep(0.1)
            if self.holds:
                self._former = _holder()
                self._write(runs=False)
                atexit.register(self.release)

    def run(self) -> None:
        """Claims the folder to run jobs, and removes what a killed run left. Raises UserError if another one runs."""
        if not self.holds:
            self.claim()
        if not self.holds:
            raise UserError(f"{_name(_holder())} runs jobs in this folder; wait for it, or end it, and start again")
        if self._is_elsewhere():
            raise UserError(
                f"{_name(self._former)} ran jobs in this folder and did not say that it ended; if it has, "
                "`snakemake --unlock`, then start again"
            )
        self._clear()
        self._write(runs=True)

    def release(self) -> None:
        """Releases the lock; the entry of a process on another host stays, because that process may still run."""
        if self._descriptor is None:
            return
        if self._is_elsewhere():
            self._write_record(self._former)
        else:
            LOCK.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def forget(self) -> None:
        """Counts a process of another host as ended."""
        self._former = {}

    def _take(self) -> bool:
        descriptor = os.open(LOCK, os.O_CREAT | os.O_RDWR, 0o666)
        if hold(descriptor, LOCK) and not _is_running_here(_holder()):
            self._descriptor = descriptor
            return True
        os.close(descriptor)
        return False

    def _is_elsewhere(self) -> bool:
        return bool(self._former.get("runs")) and self._former.get("host") != socket.gethostname()

    def _clear(self) -> None:
        """Removes what a killed run left, and says so in one line."""
        locks = [*SNAKEMAKE_LOCKS.glob("*.lock")]
        for path in locks:
            path.unlink(missing_ok=True)
        left = [path for folder in self._swept for path in sweep(Path(folder))]
        left += sweep(Path(tempfile.gettempdir()), below=False)
        for folder in Path(".snakemake").glob("shell_tmp.*"):
            shutil.rmtree(folder, ignore_errors=True)
        files = f"{len(left)} unfinished file{'' if len(left) == 1 else 's'}"
        if locks or self._former.get("runs"):
            run = _name(self._former) if self._former else "a run"
            print(f"ssmrank: {run} was killed; its lock and {files} were removed", file=sys.stderr)
        elif left:
            print(f"ssmrank: {files} of killed processes were removed", file=sys.stderr)

    def _write(self, runs: bool) -> None:
        pid, _, start = lifetime.myself().partition(" ")
        now = datetime.now().isoformat(sep=" ", timespec="seconds")
        record = {"pid": int(pid), "start": start, "host": socket.gethostname(), "since": now, "runs": runs}
        self._write_record(record | {"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])})

    def _write_record(self, record: dict[str, Any]) -> None:
        assert self._descriptor is not None
        text = json.dumps(record).encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))


def alone_while_running(workflow: Any, afterwards: Callable[[], None], also: Sequence[str] = ()) -> Alone:
    """Claims the folder for this Snakemake. If another run has it, this one ends with one line before any job.

    `afterwards` is called at the end of a run, even of one without jobs, for which Snakemake calls no handlers of its
    own: a run that was killed after its last job left that work to the next. `also` names more folders that
    jobs write to.
    """
    alone = Alone(also)
    execute, unlock = workflow.execute, workflow.unlock

    def execute_alone(*, executor_plugin: Any, executor_settings: Any, **options: Any) -> Any:
        if workflow.execution_settings.lock and not executor_plugin.common_settings.dryrun_exec:
            with one_line():
                slurm.watch(executor_plugin, executor_settings)
                alone.run()
        try:
            with one_line(), _disk_errors():
                return execute(executor_plugin=executor_plugin, executor_settings=executor_settings, **options)
        finally:
            if alone.holds:
                afterwards()

    def unlock_too() -> Any:
        with one_line():
            alone.claim()
        alone.forget()
        return unlock()

    workflow.execute, workflow.unlock = execute_alone, unlock_too
    return alone


def _holder() -> dict[str, Any]:
    """The record in the lock's file; empty if there is none."""
    try:
        record = json.loads(LOCK.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_running_here(record: Mapping[str, Any]) -> bool:
    """Whether the process of a record still runs on this machine; for file systems without locks."""
    alive = lifetime.is_alive(f"{record.get('pid')} {record.get('start')}")
    return alive and record.get("host") == socket.gethostname() and record.get("pid") != os.getpid()


def _name(record: Mapping[str, Any]) -> str:
    facts = {key: record.get(key, "unknown") for key in ("command", "pid", "host", "since")}
    return "`{command}` (process {pid} on {host}, since {since})".format(**facts)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turns errors of Snakemake's own files into one line; Snakemake would end with a stack trace."""
    try:
        yield
    except OSError as error:
        with disk_errors(Path(error.filename or ".")):
            raise


@contextmanager
def one_line() -> Iterator[None]:
    """Ends the process with the one line of a UserError."""
    try:
        yield
    except UserError as error:
        raise SystemExit(f"ssmrank: error: {error}") from None
