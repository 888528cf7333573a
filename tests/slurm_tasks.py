"""Processes that have the environment of tasks which Slurm started, on loopback and without Slurm."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment_of(rank: int, count: int, port: int, **changes: str) -> dict[str, str]:
    """What Slurm tells task `rank` of `count`, each on a node of its own."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NODELIST": f"n[1-{count}]",
        "SLURM_NNODES": str(count),
        "SLURM_NODEID": str(rank),
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": "0",
        "SLURMD_NODENAME": f"n{rank + 1}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "SSMRANK_JOIN_SECONDS": "60",
    } | changes


def _started(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def tasks(
    commands: Sequence[Sequence[str]], start: Callable[..., Any] = _started, **changes: str
) -> Iterator[list[Any]]:
    """Starts a command as each task, by Popen or as `start` does; ends those that are left after the block."""
    port = free_port()
    started = []
    try:
        for rank, command in enumerate(commands):
            environment = os.environ | environment_of(rank, len(commands), port, **changes)
            started.append(start(command, environment))
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def finish(started: Sequence[Any], seconds: float = 60.0) -> tuple[list[int], list[str]]:
    """Exit statuses and standard errors of all tasks."""
    errors = [process.communicate(timeout=seconds)[1] for process in started]
    return [process.returncode for process in started], errors
