"""Starts the processes of a parallel training or reranking on this machine.

PyTorch's elastic agent starts them, as torchrun does, so `torchrun --nproc-per-node N -m ssmrank train …` is the same
training. For several machines use torchrun. If a process started here dies, the others are stopped within a second and
one line says why. A process that only notices the death of another exits with status LOST and prints nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from ssmrank.errors import UserError
from ssmrank.io.atomic import scratch_directory
from ssmrank.lifetime import STARTER, myself

LAUNCHED = "SSMRANK_LAUNCHED"
"""Environment variable that is set for processes started here."""

LOST = 3
"""Exit status of a process started here after another process has died."""

_GRACE_SECONDS = 5.0
"""Processes that all fail for the same reason, such as a wrong setting, have this long to report it themselves."""

_SHOWN = 300
"""How many characters of a process's last line are shown, if it is not its own report of what is wrong."""


def command_of(arguments: argparse.Namespace) -> list[str]:
    """The command line of the `ssmrank` that parsed these arguments."""
    words = [sys.executable, "-m", "ssmrank", *arguments.subcommand.split()]
    for name, value in vars(arguments).items():
        if value is not None and name not in ("subcommand", "run_subcommand", "words"):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def launch(command: Sequence[str], processes: int, variables: Mapping[str, str] | None = None) -> None:
    """Runs a command in this many processes, with these variables of the environment, and waits for them.

    The first process writes to this process's output. Raises UserError, with what the dead process said last, if one
    dies, and SystemExit if the first process has already reported what is wrong. However this function ends, no process
    is left.
    """
    from ssmrank.elastic import error_file, run

    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    environment = {LAUNCHED: "1", STARTER: myself(), "OMP_NUM_THREADS": threads, **(variables or {})}
    words = ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
    with scratch_directory() as folder:
        statuses = run(words, processes, str(folder), _Failure())
        dead = _cause(statuses)
        if dead is None:
            return
        status = statuses[dead] or 0
        if status > 0 and statuses[0] == 2:
            raise SystemExit(2)
        # The last output of a process that was killed from outside does not explain its end.
        said = _last_line(error_file(str(folder), dead)) if dead and status != -signal.SIGKILL else ""
        raise UserError(_message(dead, status, processes, said))


class _Failure:
    """Whether the processes have failed for good, given their statuses, again and again.

    Processes that fail for the same reason, such as a wrong setting, have some time to report it themselves, and so has
    a process whose death others notice before we do.
    """

    def __init__(self) -> None:
        self._since = math.inf

    def __call__(self, statuses: Sequence[int | None]) -> bool:
        dead = _cause(statuses)
        if dead is None:
            return False
        self._since = min(self._since, time.monotonic())
        status = statuses[dead] or 0
        if status < 0 or time.monotonic() - self._since >= _GRACE_SECONDS:
            return True
        return status != LOST and statuses[0] is not None


def _cause(statuses: Sequence[int | None]) -> int | None:
    """The rank of a process that failed by itself, or else of one that followed another; None if all are well."""
    failed = [rank for rank, status in enumerate(statuses) if status]
    return next((rank for rank in failed if statuses[rank] != LOST), failed[0] if failed else None)


def _message(dead: int, status: int, processes: int, said: str) -> str:
    own = re.fullmatch(r"ssmrank [a-z -]*: error: (.+)", said)
    if status == 2 and own is not None:
        return own[1]
    ended = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    if status == LOST:
        ended = "ended, as another one no longer answered"
    return (
        f"process {dead} of {processes} {ended}{f' ({said[:_SHOWN]})' if said else ''}; the others were stopped; "
        "start again to resume from the last saved state"
    )


def _last_line(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        lines = [line.strip() for line in stream if line.strip()]
    return lines[-1] if lines else ""
