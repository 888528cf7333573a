"""Processes that end when the process that started them ends, however it ends.

A process of this package finds its starter in the environment (`STARTER`), watches it, and sends itself SIGTERM when it
has ended. Other programs are started by `running`; there the kernel kills them.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

STARTER = "SSMRANK_STARTER"
"""Environment variable with the `identity` of the process that this one has to end with."""

GRACE_SECONDS = 10.0
"""How long a process may take to clean up after its starter has ended."""

_TIE = """import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]))  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[2]):
    os.execvp(sys.argv[3], sys.argv[3:])
"""


def identity(pid: int) -> str:
    """A process as `PID START`, which no later process has. START is 0 if the system does not report it."""
    return f"{pid} {_start(pid)}"


def myself() -> str:
    """This process's identity."""
    return identity(os.getpid())


def is_alive(name: str) -> bool:
    """Whether the process of this identity still runs on this machine."""
    pid, _, start = name.partition(" ")
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return start == str(_start(int(pid)))


def begin() -> None:
    """Makes this process exit cleanly at SIGTERM and SIGHUP, and when the process that `STARTER` names ends.

    `with` blocks and `finally` clauses run then, so that no half-written file remains.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # otherwise it may be ignored, by nohup for instance
            signal.signal(number, _end)
    if starter := os.environ.get(STARTER):
        end_with(starter)


def end_with(starter: str) -> None:
    """Makes this process end when the process of this identity ends."""
    threading.Thread(target=_watch, args=(starter,), name="ssmrank-lifetime", daemon=True).start()


def tied(command: Sequence[str], number: signal.Signals = signal.SIGKILL) -> list[str]:
    """A command that, started by this process, gets a signal from the kernel when this process ends (on Linux)."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TIE, str(int(number)), str(os.getpid()), *command]


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Starts a program as `subprocess.Popen` does, and kills it if it outlives the block or this process."""
    process = subprocess.Popen(tied(command), **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _watch(starter: str) -> None:
    _wait_for(starter)
    log.warning("the parent process has ended (%s); this process ends too", starter.partition(" ")[0])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for(starter: str) -> None:
    try:
        descriptor = os.pidfd_open(int(starter.partition(" ")[0]))
    except (AttributeError, OSError):  # not Linux, or the starter has already ended
        descriptor = None
    while is_alive(starter):
        if descriptor is None:
            time.sleep(1)
        else:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll()
            break
    if descriptor is not None:
        os.close(descriptor)


def _start(pid: int) -> int:
    """When a process started, in clock ticks since boot; -1 for a zombie, 0 where the system does not report it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return -1 if fields[0] in (b"Z", b"X") else int(fields[19])
