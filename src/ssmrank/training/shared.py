"""What the processes of a training share: the folder of its state, and the content of the files that they read."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path
from typing import NoReturn

from ssmrank.errors import UserError
from ssmrank.io.atomic import disk_errors
from ssmrank.training.parallel import Workers

_LATE_SECONDS = 5.0
"""A file system of several nodes may show a new file on the others so late."""


def check_folder(folder: Path, workers: Workers) -> None:
    """Raises UserError if not all processes see the same folder, as on nodes where it is a disk of their own."""
    if workers.size == 1:
        return
    name = f".seen-{uuid.uuid4().hex}"
    if workers.rank == 0:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    name = workers.gather(name)[0]
    blind = [node for node in workers.gather(None if _is_seen(folder / name) else _node()) if node is not None]
    if workers.rank == 0:
        (folder / name).unlink()
    if blind:
        _end_all(
            f"{folder}: node {blind[0]} does not see what node {_node()} writes there; put the state into a folder "
            "that all nodes share",
            workers,
        )


def same_for_all(digest: str, workers: Workers) -> str:
    """The digest of what this process reads. Raises UserError if another process reads something else."""
    found = workers.gather((digest, _node()))
    others = [node for other, node in found if other != found[0][0]]
    if others:
        _end_all(
            f"node {others[0]} has other files or settings of this training than node {_node()}; give all nodes the "
            "same",
            workers,
        )
    return digest


def _end_all(message: str, workers: Workers) -> NoReturn:
    """Raises the error in the first process, and ends the others without a word."""
    raise UserError(message) if workers.rank == 0 else SystemExit(2)


def _is_seen(path: Path) -> bool:
    end = time.monotonic() + _LATE_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
        # Listing a folder makes NFS ask the server for what is new.
        if path.parent.is_dir():
            os.listdir(path.parent)
    return True


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
