"""Runs `snakemake` in forks of one process that has already done its imports and read the package's sources.

A plan then takes a fraction of its usual time. Only what all projects share is imported in advance: packages, and the
two modules of the workflow's library that read sources and look up packages.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

BEFOREHAND = [
    *("snakemake.cli", "snakemake.report", "snakemake.dag", "snakemake.persistence", "snakemake.report.html_reporter"),
    *("smart_open", "pandas", "pydantic"),
]


class Forks:
    """The process that forks; it starts when first needed."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path
    ) -> subprocess.CompletedProcess[str]:
        """Like `subprocess.run` of snakemake; `stdout` includes standard error."""
        if self._server is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a fork does not get its parent's threads
            command = [sys.executable, __file__]
            self._server = subprocess.Popen(command, text=True, env={**environment, **alone}, **pipes)
        assert self._server.stdin and self._server.stdout
        request = {"words": words, "folder": str(folder), "environment": environment, "output": str(output)}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the process that forks has ended"
        return subprocess.CompletedProcess(words, int(answer), output.read_text())

    def close(self) -> None:
        """Ends the process."""
        if self._server is not None:
            assert self._server.stdin
            self._server.stdin.close()
            self._server.wait()


def _become(request: dict[str, Any]) -> None:
    """Makes this process look like an interpreter that has just started in the project."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, file in ((0, nothing), (1, output), (2, output)):
        os.dup2(file, number)
    command = Path(sys.executable).with_name("snakemake")
    sys.argv[:] = [str(command), *request["words"]]
    sys.path[:] = [str(command.parent), request["environment"]["PYTHONPATH"], *sys.path[2:]]
    # The project has its own copy of the library. Of this one, only the caches of sources stay.
    del sys.modules["pipeline"]
    importlib.invalidate_caches()


def _serve() -> dict[str, Any] | None:
    """Returns in each fork with its request, and in the parent at the end with None."""
    for line in sys.stdin:
        fork = os.fork()
        if not fork:
            return json.loads(line)
        _, status = os.waitpid(fork, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def end(command: Callable[[], None]) -> None:
    """Runs a command and ends this process with its status, as an interpreter does, but at once."""
    status = 0
    try:
        command()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


def main() -> None:
    sys.path[:1] = ["", str(ROOT / "workflow/lib")]
    from pipeline import source, versions

    for name in BEFOREHAND:
        importlib.import_module(name)
    versions.versions(["torch"])
    for path in (ROOT / "src").rglob("*.py"):
        source.strip(path.read_text()), versions.foreign(path.read_text())
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    # A fork gets only one thread. jemalloc (in pyarrow, in pandas) knows that and works without its own thread.
    assert len([name for name in threads if not name.startswith("jemalloc")]) == 1, threads
    # A fork copies each page of memory that it writes to. So the collector leaves alone what is there before the fork,
    # and a fork ends without clearing its modules.
    gc.collect()
    gc.freeze()
    request = _serve()
    if request is not None:
        _become(request)
        end(importlib.import_module("ssmrank.snakemake_entry").main)


if __name__ == "__main__":
    main()
