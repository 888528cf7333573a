"""A fair share of a machine's GPUs: which of them a process takes, so that others of the same user take different ones.

What a process has taken is locked until it ends, however it ends. The locks are files, so they hold between Snakemake's
jobs, between several runs of Snakemake and for commands by hand. In a job of Slurm with GPUs, the scheduler has chosen
them, and only processes of that job share them.
"""

from __future__ import annotations

import itertools
import logging
import os
import stat
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.io.locks import hold

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"

_held: list[int] = []
"""This process's locks: open files, which the system closes however the process ends."""


def own_gpu(count: int) -> int:
    """The GPU of this process, of `count` visible ones; the same at every call."""
    return _own(count, private_folder())


def own_gpus(count: int, wanted: int) -> dict[str, str]:
    """Takes GPUs for processes that this one starts, and returns the variable with which they see no others.

    It is empty if they need all of the `count` visible ones, or more.
    """
    if count < 2:
        return {}
    names, folder = visible_names(count), private_folder()
    first = _own(count, folder)
    others = [index for index in range(count) if index != first]
    taken = [others[one] for one in take([names[index] for index in others], min(wanted, count) - 1, folder)]
    if wanted >= count:
        return {}
    return {VISIBLE: ",".join(names[index] for index in sorted([first, *taken]))}


def visible_names(count: int) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each of the `count` GPUs that this process sees."""
    names = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return names[:count] if len(names) >= count else [str(index) for index in range(count)]


def take(names: Sequence[str], wanted: int, folder: Path) -> list[int]:
    """Takes GPUs until this process ends, those first that the fewest processes have taken; returns their indices.

    wanted: at most as many as there are names. folder: where the locks are files. Prints a line if a GPU is shared.
    """
    taken: list[int] = []
    # Locks of the first round are of GPUs that nobody has, those of the second of GPUs that one process has, and so on.
    for others in itertools.count():
        for index, name in enumerate(names):
            if len(taken) == wanted:
                return taken
            if index not in taken and _lock(folder / f"gpu-{_scope(name)}-{others}.lock"):
                taken.append(index)
                if others:
                    log.warning("GPU %s is shared by %d jobs of yours, because all are taken", name, others + 1)
    raise AssertionError


def private_folder() -> Path:
    """This user's folder for locks, in the folder for temporary files. No other user can write to it.

    Raises UserError if its path is not a private folder of this user.
    """
    folder = Path(tempfile.gettempdir(), f"ssmrank-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(
            f"{folder}: belongs to another user or is open to others; remove it, or set TMPDIR to a folder of your own"
        )
    return folder


@cache
def _own(count: int, folder: Path) -> int:
    [index] = take(visible_names(count), 1, folder)
    return index


def _scope(name: str) -> str:
    """The name of a GPU's locks. In a job of Slurm, `0` is the first GPU of that job, whichever it is."""
    name = name.replace("/", "-")
    job = os.environ.get("SLURM_JOB_ID") if os.environ.get(VISIBLE) else None
    return f"{job}.{name}" if job else name


def _lock(path: Path) -> bool:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if hold(lock, path):
        _held.append(lock)
        return True
    os.close(lock)
    return False
