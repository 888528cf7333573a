"""Runs the command `ssmrank` of a workflow's jobs in forks of one process that has imported torch and transformers.

A job takes some seconds of a core for these imports, and little more for its work on tests' inputs. Bash finds the
command as a function in its environment; a small program hands words, folder, environment and standard streams over to
the process that forks. As in `forks`, only packages are imported in advance, because each project has its own copy of
the code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from forks import end

BEFOREHAND = [
    *("torch", "transformers.modeling_utils", "transformers.generation.utils"),
    *("transformers.models.auto.modeling_auto", "safetensors.torch", "pydantic", "yaml"),
]

CLIENT = f"""#!{sys.executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    asked = {{"words": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}}
    socket.send_fds(server, [b"x"], [0, 1, 2])
    server.sendall(json.dumps(asked).encode())
    server.shutdown(socket.SHUT_WR)
    status = server.recv(16)
sys.exit(int(status) % 256 if status else "the process that forks has ended")
"""


class JobForks:
    """The process that forks; it starts when first needed, and ends with this one."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def environment(self) -> dict[str, str]:
        """Variables with which bash runs `ssmrank` in a fork."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="ssmrank-forks-")
            client = Path(self._folder.name, "client")
            client.write_text(CLIENT)
            client.chmod(0o755)
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # forks do not get a parent's threads
            command = [sys.executable, __file__, self._socket]
            self._server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._server.stdout and self._server.stdout.readline() == b"ready\n"
        return {"BASH_FUNC_ssmrank%%": f'() {{ {self._folder.name}/client {self._socket} "$@"; }}'}

    @property
    def _socket(self) -> str:
        assert self._folder is not None
        return f"{self._folder.name}/socket"


def _serve(address: str) -> dict[str, Any] | None:
    """Returns in each fork with its request, and in the server at the end, when standard input closes, with None."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        while listener in select.select([listener, 0], [], [])[0]:
            connection = listener.accept()[0]
            if os.fork():
                connection.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return _request(connection)
    return None


def _request(connection: socket.socket) -> dict[str, Any]:
    """Returns the request in a fork of this process, which itself answers with the fork's status and ends."""
    streams = socket.recv_fds(connection, 1, 3)[1]
    request = json.loads(b"".join(iter(lambda: connection.recv(1 << 16), b"")))
    fork = os.fork()
    if fork:
        for number in range(3):
            os.close(streams[number])
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        status = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
        connection.sendall(str(status if status >= 0 else 128 - status).encode())
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return request


def _become(request: dict[str, Any]) -> None:
    """Makes this process look like an interpreter that has just started the command."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    command = Path(sys.executable).with_name("ssmrank")
    sys.argv[:] = [str(command), *request["words"]]
    sys.path[:] = [str(command.parent), *os.environ["PYTHONPATH"].split(os.pathsep), *sys.path]
    importlib.invalidate_caches()
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def main() -> None:
    sys.path[:] = sys.path[1:]  # without tests/
    for name in BEFOREHAND:
        importlib.import_module(name)
    assert not any(name.partition(".")[0] == "ssmrank" for name in sys.modules)
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert len([name for name in threads if not name.startswith("jemalloc")]) == 1, threads
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    request = _serve(sys.argv[1])
    if request is not None:
        _become(request)
        end(lambda: sys.exit(importlib.import_module("ssmrank.cli").main()))


if __name__ == "__main__":
    main()
