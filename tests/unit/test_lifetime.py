"""No process outlives its parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ssmrank import cli, lifetime
from ssmrank.lifetime import STARTER, identity, is_alive, myself, running


def ended(pid: int, seconds: float = 30) -> bool:
    """Whether a process ends within the time; it need not be a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    found = poll.poll(seconds * 1000)
    os.close(descriptor)
    return bool(found)


def start(code: str, **environment: str) -> subprocess.Popen:
    """A process that runs the code up to its first line of output, which is a process id."""
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)


def number(process: subprocess.Popen) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_alive_and_not() -> None:
    assert is_alive(myself())
    pid, start = myself().split()
    assert not is_alive(f"{pid} {int(start) + 1}")
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = identity(process.pid)
    assert is_alive(name)
    process.kill()
    assert ended(process.pid)
    assert not is_alive(name)  # it has ended, but nobody has waited for it
    process.communicate()
    assert not is_alive(name)
    for wrong in ("", "x", "x 1", "99999999999999999999 1"):
        assert not is_alive(wrong)


PROGRAM = "import subprocess, sys; from ssmrank.lifetime import running\n"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_program_ends_with_the_process_that_started_it() -> None:
    code = PROGRAM + "with running(['sleep', '600']) as program: print(program.pid, flush=True); program.wait()"
    process = start(code)
    program = number(process)
    process.kill()
    assert ended(program)
    process.communicate()


def test_a_program_ends_with_the_block(tmp_path: Path) -> None:
    with pytest.raises(KeyError), running(["sleep", "600"]) as program:
        raise KeyError
    assert program.poll() == -signal.SIGKILL
    with running(["sh", "-c", "echo it runs; exit 3"], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None and program.stdout.read() == "it runs\n"
        assert program.wait() == 3


JOB = (
    "import os, time; from ssmrank import lifetime\n"
    "lifetime.begin()\n"
    "try:\n"
    "    print(os.getpid(), flush=True)\n"
    "    while True: time.sleep(0.01)\n"
    "finally:\n"
    "    open({path!r}, 'w').close()\n"
)


@pytest.mark.parametrize("how", ["starter", "SIGTERM", "SIGHUP"])
def test_a_job_puts_things_in_order_before_it_ends(tmp_path: Path, how: str) -> None:
    starter = subprocess.Popen(["sleep", "600"])
    job = start(JOB.format(path=str(tmp_path / "in-order")), **{STARTER: identity(starter.pid)})
    number(job)
    if how == "starter":
        starter.kill()
    else:
        job.send_signal(getattr(signal, how))
    assert ended(job.pid)
    assert (tmp_path / "in-order").exists()
    assert job.wait() == 128 + (signal.SIGHUP if how == "SIGHUP" else signal.SIGTERM)
    starter.kill()
    starter.wait()
    job.communicate()


def test_a_job_whose_starter_has_ended_already(tmp_path: Path) -> None:
    job = start(JOB.format(path=str(tmp_path / "in-order")), **{STARTER: f"{os.getpid()} 1"})
    assert ended(job.pid)
    job.communicate()


def test_a_job_that_does_not_come_to_an_end_is_killed() -> None:
    code = "import os, signal, time; from ssmrank import lifetime\n"
    code += "signal.signal(signal.SIGTERM, signal.SIG_IGN); lifetime.GRACE_SECONDS = 0.1; lifetime.begin()\n"
    job = start(code + "print(os.getpid(), flush=True)\nwhile True: time.sleep(1)", **{STARTER: "1 1"})
    assert ended(job.pid)
    assert job.wait() == -signal.SIGKILL
    job.communicate()


def test_the_workers_of_a_job_that_is_killed_end() -> None:
    code = (
        "import sys, ssmrank.launch as launch\n"
        "worker = 'import os, time; from ssmrank import lifetime; lifetime.begin()\\n'\n"
        # One write each, so that the lines of two workers do not mix.
        "worker += 'os.write(1, f\"{os.getpid()}\\\\n\".encode())\\nwhile True: time.sleep(1)'\n"
        "launch.launch([sys.executable, '-c', worker], 2)\n"
    )
    job = start(code)
    workers = [number(job), number(job)]
    job.kill()
    assert all(ended(worker) for worker in workers)
    job.communicate()


def test_interrupted_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ssmrank.commands.tracking_store.run", interrupted)
    assert cli.main(["tracking-store"]) == 130
    assert capsys.readouterr().err == "ssmrank tracking-store: interrupted\n"


def test_a_caller_s_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert signal.getsignal(signal.SIGTERM) == before
    assert lifetime.STARTER not in os.environ
