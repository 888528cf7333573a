"""Starts the processes of a parallel training or reranking on this machine.

They get the environment that torchrun would give them, so `torchrun --nproc-per-node N -m ssmrank train …` is the same
training. For several machines use torchrun. If a process started here dies, the others are stopped within a second and
one line says why. A process that only notices the death of another exits with status LOST and prints nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

from ssmrank.errors import UserError
from ssmrank.io.atomic import scratch_directory
from ssmrank.lifetime import STARTER, myself

LAUNCHED = "SSMRANK_LAUNCHED"
"""Environment variable that is set for processes started here."""

LOST = 3
"""Exit status of a process started here after another process has died."""

_GRACE_SECONDS = 5.0
"""Processes that all fail for the same reason, such as a wrong setting, have this long to report it themselves."""


def command_of(arguments: argparse.Namespace) -> list[str]:
    """The command line of the `ssmrank` that parsed these arguments."""
    words = [sys.executable, "-m", "ssmrank", *arguments.subcommand.split()]
    for name, value in vars(arguments).items():
        if value is not None and name not in ("subcommand", "run_subcommand", "words"):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def launch(command: Sequence[str], processes: int) -> None:
    """Runs a command in this many processes and waits for them.

    The first process writes to this process's output. Raises UserError, with the last line of the dead process, if one
    dies, and SystemExit if the first process has already reported what is wrong.
    """
    workers: list[subprocess.Popen[bytes]] = []
    with scratch_directory() as folder:
        try:
            port = _free_port()
            for rank in range(processes):
                environment = os.environ | {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(processes),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    LAUNCHED: "1",
                    STARTER: myself(),
                }
                environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
                stderr: IO[bytes] | None = open(f"{folder}/{rank}", "wb") if rank else None  # noqa: SIM115
                workers.append(subprocess.Popen(command, env=environment, stderr=stderr))
                if stderr is not None:
                    stderr.close()
            dead = _wait(workers)
            if dead is None:
                return
            status = workers[dead].returncode
            if status > 0:
                _wait_a_while(workers[0])
                if workers[0].poll() == 2:
                    raise SystemExit(2)
            ended = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            if status == LOST:
                ended = "ended, as another one no longer answered"
            # The last output of a process that was killed from outside does not explain its end.
            last = _last_line(f"{folder}/{dead}") if dead and status != -signal.SIGKILL else ""
            raise UserError(
                f"process {dead} of {processes} {ended}{f' ({last})' if last else ''}; the others were stopped; "
                "start again to resume from the last saved state"
            )
        finally:
            _stop(workers)


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """The rank of a process that failed by itself; None when all have ended well.

    A process that exits with LOST only followed another, so it counts only if no other has failed after a while.
    """
    end = math.inf
    while True:
        states = [worker.poll() for worker in workers]
        failed = [rank for rank, status in enumerate(states) if status]
        by_itself = next((rank for rank in failed if states[rank] != LOST), None)
        if by_itself is not None:
            return by_itself
        if failed:
            end = min(end, time.monotonic() + _GRACE_SECONDS)
            if time.monotonic() >= end:
                return failed[0]
        elif all(status == 0 for status in states):
            return None
        time.sleep(0.1)


def _wait_a_while(worker: subprocess.Popen[bytes]) -> None:
    try:
        worker.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return


def _stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            # Safe: a training may be killed at any time. One that waits for others does not react to SIGTERM.
            worker.kill()
    for worker in workers:
        worker.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _last_line(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        lines = [line.strip() for line in stream if line.strip()]
    return lines[-1][:300] if lines else ""
