from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ssmrank.cli import main
from ssmrank.errors import UserError
from ssmrank.launch import LOST, launch
from ssmrank.lifetime import identity, is_alive
from ssmrank.models.reranker import load_reranker


def command(code):
    return [sys.executable, "-c", f"import os, signal, sys, time; rank = int(os.environ['RANK']); {code}"]


def test_processes_are_told_who_they_are(tmp_path):
    names = "'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR'"
    launch(command(f"open(rf'{tmp_path}/{{rank}}', 'w').write(' '.join(os.environ[n] for n in ({names})))"), 3)
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [
        f"{rank} {rank} 3 127.0.0.1" for rank in range(3)
    ]


@pytest.mark.parametrize(
    ("death", "line"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"process 1 of 3 ended by SIGKILL; the others were stopped; start"),
        ("sys.exit('no such device')", r"process 1 of 3 ended with status 1 \(no such device\); the others"),
    ],
)
def test_a_dead_process_ends_the_others_with_one_line(tmp_path, monkeypatch, death, line):
    monkeypatch.setattr("ssmrank.launch._GRACE_SECONDS", 0.1)
    code = f"open(rf'{tmp_path}/{{rank}}', 'w').write(str(os.getpid())); print('at work', file=sys.stderr); "
    with pytest.raises(UserError, match=line):
        launch(command(code + f"{death} if rank == 1 else time.sleep(600)"), 3)


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ("time.sleep(0.5); sys.exit('no such device')", r"process 1 of 2 ended with status 1 \(no such device\); the"),
        ("time.sleep(600)", r"process 0 of 2 ended, as another one no longer answered; the others were stopped; start"),
    ],
)
def test_the_line_is_about_the_process_that_left_the_others_alone(monkeypatch, other, line):
    monkeypatch.setattr("ssmrank.launch._GRACE_SECONDS", 2.0)
    with pytest.raises(UserError, match=line):
        launch(command(f"sys.exit({LOST}) if rank == 0 else None; {other}"), 2)


def test_a_mistake_that_another_process_reports_is_said_as_it_said_it(monkeypatch):
    monkeypatch.setattr("ssmrank.launch._GRACE_SECONDS", 0.1)
    line = "ssmrank train: error: params.yaml: trainings: " + "too long, " * 50 + "shorten it"
    with pytest.raises(UserError) as failed:
        launch(command(f"time.sleep(600) if rank != 1 else None; print({line!r}, file=sys.stderr); sys.exit(2)"), 3)
    assert str(failed.value) == line.removeprefix("ssmrank train: error: ")


def test_the_launcher_holds_the_port_on_loopback(tmp_path):
    """Nobody else can take it between the choice of the port and the first connection."""
    code = (
        "import json, psutil, socket; address = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']); "
        "socket.create_connection(address).close(); "
        "found = psutil.Process(os.getppid()).net_connections('inet'); "
        "listening = [c.laddr for c in found if c.status == psutil.CONN_LISTEN and c.laddr.port == address[1]]; "
        f"open(rf'{tmp_path}/{{rank}}', 'w').write(json.dumps([c.ip for c in listening]))"
    )
    launch(command(code), 2)
    assert [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)] == [["127.0.0.1"]] * 2


def test_arguments_arrive_as_they_are(tmp_path):
    words = ["$$", "${local_rank}", "a b", "", "x=1", "é"]
    launch([*command(f"import json; open(rf'{tmp_path}/{{rank}}', 'w').write(json.dumps(sys.argv[1:]))"), *words], 2)
    assert all(json.loads((tmp_path / str(rank)).read_text()) == words for rank in range(2))


LAUNCHER = """
import sys
from ssmrank import lifetime
from ssmrank.launch import launch
lifetime.begin()
try:
    launch([sys.executable, "-c", sys.argv[1]], 2)
except KeyboardInterrupt:
    sys.exit("interrupted")
"""
STUBBORN = """
import os, signal, subprocess, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"])
os.write(1, f"{os.getpid()} {child.pid}\\n".encode())  # one write, so that the lines of two workers do not mix
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP), (signal.SIGINT, 1)],
)
def test_a_signal_stops_all_processes_and_theirs(number, status):
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, STUBBORN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        workers = [identity(int(pid)) for _ in range(2) for pid in job.stdout.readline().split()]
        assert len(workers) == 4
        os.kill(job.pid, number)
        said = job.communicate(timeout=20)[1]
    assert job.returncode == status
    assert said == ("interrupted\n" if number == signal.SIGINT else "")
    end = time.monotonic() + 5
    while any(map(is_alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_signals_do_afterwards_what_they_did_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    launch(command("pass"), 2)
    assert {number: signal.getsignal(number) for number in before} == before


def test_what_the_first_process_said_is_not_said_again():
    with pytest.raises(SystemExit) as stopped:
        launch(command("sys.exit(2)"), 2)
    assert stopped.value.code == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": "ddp"},
        {"parallel": "fsdp2"},
        {"parallel": "fsdp2", "gather": "layer"},
        {"parallel": "ddp", "lora": {"rank": 64, "alpha": 64}, "optimizer_states": "8bit"},
        {"parallel": "fsdp2", "gather": "layer", "lora": {"rank": 2, "alpha": 4}, "optimizer_states": "bfloat16"},
    ],
)
def test_train_starts_its_processes(options, tmp_path, changes):
    assert main([*options(epochs=2, processes=2, **changes), "--save-seconds", "0"]) == 0
    assert json.loads((tmp_path / "output" / "outcome.json").read_text())["steps"] == 2
    assert len(load_reranker(tmp_path / "output").score("river", ["fish", "mamba"])) == 2
    assert not (tmp_path / "state").exists()
