"""What Slurm tells a task about itself and the other tasks of its step, in environment variables."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

from ssmrank.errors import UserError

LOOPBACK = "127.0.0.1"

_PORTS = range(20000, 30000)
"""Ports below those that systems give to clients."""


@dataclass(frozen=True)
class Task:
    """A task of a step with several: number `rank` of `count`, and number `local` of those on its node.

    nodes: how many the step has; node: this one's name; step: the job's and the step's number; address, port: where the
    first task waits for the others.
    """

    rank: int
    count: int
    local: int
    nodes: int
    node: str
    step: str
    address: str
    port: int

    @property
    def is_on_one_host(self) -> bool:
        """Whether all tasks reach the first one through loopback, so that nothing need listen elsewhere."""
        return self.address in (LOOPBACK, "localhost")


def this_task() -> Task | None:
    """This process's task; None unless Slurm started several for one command, and torchrun did not start this process.

    MASTER_ADDR and MASTER_PORT, where they are set, say where the first task waits. Otherwise it is the step's first
    node, and a port that depends on the numbers of job and step.

    Raises UserError for values that Slurm does not set.
    """
    environment = os.environ
    # A batch script and an interactive shell have the variables of their job, but no number of a step.
    if "RANK" in environment or not environment.get("SLURM_STEP_ID", "").isdecimal():
        return None
    count = _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if count < 2:
        return None
    nodes = _number("SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    step = f"{environment.get('SLURM_JOB_ID', '')}.{environment['SLURM_STEP_ID']}"
    rank = _number("SLURM_PROCID")
    if rank >= count:
        raise UserError(f"SLURM_PROCID is {rank}, but Slurm's step {step} has {count} tasks; start it with srun")
    node = environment.get("SLURMD_NODENAME") or socket.gethostname()
    port = _number("MASTER_PORT") if "MASTER_PORT" in environment else _PORTS[zlib.crc32(step.encode()) % len(_PORTS)]
    return Task(rank, count, _number("SLURM_LOCALID"), nodes, node, step, _address(nodes), port)


def first_of(nodes: str) -> str:
    """The first of a list of nodes as Slurm writes it: `gpu[007-009,12],login` begins with gpu007."""
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", found[0] if found else "")


def step_of_job() -> str | None:
    """The number of the Slurm job that this process belongs to, if any."""
    return os.environ.get("SLURM_JOB_ID")


def starting_process() -> int:
    """The process whose end is the end of this task: Slurm's own for this step if it is found, else our parent."""
    process = os.getppid()
    while process > 1:
        try:
            status = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            break
        name, _, rest = status.partition("(")[2].rpartition(") ")
        if name.startswith("slurmstepd"):
            return process
        process = int(rest.split()[1])
    return os.getppid()


def _address(nodes: int) -> str:
    if address := os.environ.get("MASTER_ADDR"):
        return address
    if nodes == 1:
        return LOOPBACK
    first = first_of(os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", ""))
    try:
        socket.getaddrinfo(first, None)
    except (OSError, UnicodeError):
        found = _address_in_slurm(first)
        if found is None:
            raise UserError(
                f"node {first!r}, the first of this Slurm step, has no address here; set MASTER_ADDR to its address"
            ) from None
        return found
    return first


def _address_in_slurm(node: str) -> str | None:
    """A node's address by Slurm's own configuration."""
    if not node or shutil.which("scontrol") is None:
        return None
    try:
        done = subprocess.run(
            ["scontrol", "show", "node", node], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    found = re.search(r"\bNodeAddr=(\S+)", done.stdout)
    return found[1] if found else None


def _number(*names: str) -> int:
    """The first of these variables that is set."""
    for name in names:
        value = os.environ.get(name)
        if value is None:
            continue
        if not value.isdecimal():
            raise UserError(f"{name} is {value[:40]!r}, which is no number; start the training with srun")
        return int(value)
    raise UserError(f"{names[0]} is not set, but SLURM_STEP_ID is; start the training with srun")
