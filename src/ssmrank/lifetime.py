"""Processes that end with the one that started them, however that one ends.

A process that is told who started it (`STARTER`) watches it and ends as SIGTERM would end it; a program that is not
ours is started by `running`, which has the kernel end it.
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
"""Variable of the environment with the `identity` of the process with which this one shall end."""

GRACE_SECONDS = 10.0
"""How long a process may take to put things in order once its starter is gone."""

_TIE = """import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def identity(pid: int) -> str:
    """A process as `PID START`, which no later process has; the start is 0 where the system does not tell it."""
    return f"{pid} {_start(pid)}"


def myself() -> str:
    """This process's identity."""
    return identity(os.getpid())


def is_alive(name: str) -> bool:
    """Whether a process of this machine still runs, by its identity."""
    pid, _, start = name.partition(" ")
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return start == str(_start(int(pid)))


def begin() -> None:
    """Has this process end in order at SIGTERM and SIGHUP, and at the end of the process that `STARTER` names.

    `with` blocks and `finally` run then: nothing half-written stays.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # else nohup, say, has it ignored
            signal.signal(number, _end)
    if starter := os.environ.get(STARTER):
        end_with(starter)


def end_with(starter: str) -> None:
    """Has this process end when another one ends, which is given by its identity."""
    threading.Thread(target=_watch, args=(starter,), name="ssmrank-lifetime", daemon=True).start()


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Starts a program as `subprocess.Popen` does; it is killed where the block, or this process, ends before it."""
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command]
    process = subprocess.Popen(command, **options)
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
    log.warning("the process that started this one has ended (%s); this one ends too", starter.partition(" ")[0])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for(starter: str) -> None:
    try:
        descriptor = os.pidfd_open(int(starter.partition(" ")[0]))
    except (AttributeError, OSError):  # another system than Linux, or an end before this beginning
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
    """When a process started, in ticks of the system's clock since it booted; -1 where it has ended unnoticed."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return -1 if fields[0] in (b"Z", b"X") else int(fields[19])
