"""Python processes that have torch and the code of trainings already: forks of one process that has imported both.

The imports take each process some seconds of a core, and more than most of these tests do otherwise.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["ssmrank.commands.train", "torch.distributed.checkpoint", "psutil"])


class Forked:
    """`python -m MODULE WORDS` or `python SCRIPT WORDS`, with the methods of `subprocess.Popen` that tests need.

    `communicate` returns standard error, of which a pipe holds 64 KiB; standard output is not kept.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        python, *words = command
        assert python == sys.executable
        self._said, end = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_become, args=(words, dict(environment), end))
        self._process.start()
        end.close()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        with open(os.dup(self._said.fileno())) as said:
            return "", said.read()


def _become(words: list[str], environment: dict[str, str], output: Connection) -> None:
    """Makes this process look like an interpreter that has just started the command."""
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(output.fileno(), 2)
    output.close()
    if words[0] == "-m":
        sys.argv[:] = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
