"""Launchers of two tasks start their processes together, end together, and report a failure in one line."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time

import pytest

from slurm_tasks import finish, tasks
from ssmrank.lifetime import identity, is_alive

LAUNCHER = """
import sys
from ssmrank import launch, lifetime
from ssmrank.errors import UserError
launch._GRACE_SECONDS = 1.0
lifetime.begin()
try:
    with launch.launcher_group() as group:
        exec(sys.argv[3])
        launch.launch([sys.executable, "-c", sys.argv[1]], int(sys.argv[2]), group=group)
except UserError as error:
    sys.exit(f"ssmrank train: error: {error}")
"""
WORK = "import os, signal, sys, time; rank = int(os.environ['RANK']); "


def launchers(code, sizes=(1, 1), before="pass"):
    return [[sys.executable, "-c", LAUNCHER, WORK + code, str(size), before] for size in sizes]


def errors_of(said):
    """The lines of all tasks but what the log has."""
    return [line for text in said for line in text.splitlines() if "no answer from" not in line]


def test_processes_of_all_tasks_are_one_world_and_meet(tmp_path):
    names = "('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'SSMRANK_FIRST_GPU')"
    code = (
        "import torch.distributed as dist; dist.init_process_group('gloo'); found = [None] * 3; "
        f"dist.all_gather_object(found, [os.environ[n] for n in {names}]); "
        f"import json; open(rf'{tmp_path}/{{rank}}', 'w').write(json.dumps(found)); dist.destroy_process_group()"
    )
    with tasks(launchers(code, (1, 2)), GLOO_SOCKET_IFNAME="lo") as started:
        statuses, said = finish(started)
    assert statuses == [0, 0], said
    expected = [[str(rank), local, "3", "127.0.0.1", "0"] for rank, local in enumerate("001")]
    assert [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)] == [expected] * 3


DEATHS = [
    ("os.kill(os.getpid(), signal.SIGKILL)", "process 1 of 2 ended by SIGKILL; the others were stopped; start again"),
    ("sys.exit('no such device')", "process 1 of 2 ended with status 1 (no such device); the others were stopped;"),
    ("(print('ssmrank train: error: x.json: too long', file=sys.stderr), sys.exit(2))", "x.json: too long"),
]


@pytest.mark.parametrize(("death", "line"), DEATHS, ids=["killed", "failed", "own report"])
def test_a_process_that_dies_on_another_node_ends_all_with_one_line(death, line):
    with tasks(launchers(f"{death} if rank == 1 else time.sleep(600)")) as started:
        statuses, said = finish(started)
    assert statuses == [1, 2]
    [error] = errors_of(said)
    assert error.startswith(f"ssmrank train: error: {line}")


def test_what_the_first_process_said_is_not_said_again():
    with tasks(launchers("print('error', file=sys.stderr) if rank == 0 else None; sys.exit(2)")) as started:
        statuses, said = finish(started)
    assert (statuses, errors_of(said)) == ([2, 2], ["error"])


def test_an_error_before_the_start_is_reported_by_the_first_task():
    before = "if group.task.rank == 1: raise UserError('model: no such folder')"
    with tasks(launchers("time.sleep(600)", before=before)) as started:
        statuses, said = finish(started)
    assert (statuses, errors_of(said)) == ([1, 2], ["ssmrank train: error: model: no such folder"])


LASTING = "import pathlib; pathlib.Path(os.environ['PIDS'], str(rank)).write_text(str(os.getpid())); time.sleep(600)"


@pytest.mark.parametrize(
    ("lost", "line"),
    [
        (1, "node n2 with process 1 of 2 no longer answers; the others were stopped; start again to resume"),
        (0, "the node of process 0 of 2 no longer answers (127.0.0.1); the others were stopped; start again to resume"),
    ],
)
def test_a_launcher_that_is_killed_ends_the_processes_of_all_nodes(tmp_path, lost, line):
    with tasks(launchers(LASTING), PIDS=str(tmp_path)) as started:
        workers = _workers(tmp_path, 2)
        started[lost].kill()
        statuses, said = finish(started, 20)
        assert statuses[lost] == -signal.SIGKILL and statuses[1 - lost] == 1
        [error] = errors_of(said)
        assert error.startswith(f"ssmrank train: error: {line}")
        _wait_for_end(workers)


def test_a_signal_to_one_task_ends_all(tmp_path):
    with tasks(launchers(LASTING), PIDS=str(tmp_path)) as started:
        workers = _workers(tmp_path, 2)
        started[1].terminate()
        statuses, said = finish(started, 20)
        assert statuses == [1, 128 + signal.SIGTERM]
        [error] = errors_of(said)
        assert "node n2 with process 1 of 2 was stopped; the others were stopped; start again" in error
        _wait_for_end(workers)


def test_a_signal_to_all_tasks_is_no_error(tmp_path):
    with tasks(launchers(LASTING), PIDS=str(tmp_path)) as started:
        workers = _workers(tmp_path, 2)
        for process in reversed(started):
            process.terminate()
        statuses, said = finish(started, 20)
        assert statuses == [128 + signal.SIGTERM] * 2 and errors_of(said) == []
        _wait_for_end(workers)


def test_tasks_that_do_not_come_are_one_line():
    with tasks(launchers("pass"), SLURM_NTASKS="3", SSMRANK_JOIN_SECONDS="2") as started:
        statuses, said = finish(started)
    assert statuses == [1, 2]
    [error] = errors_of(said)
    assert error.startswith("ssmrank train: error: task 2 of Slurm's step 7.0 did not come to 127.0.0.1:")
    assert error.endswith("within 2 s; check that the nodes reach each other, or set MASTER_ADDR and MASTER_PORT")


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with tasks(launchers("pass"), MASTER_PORT=port, SSMRANK_JOIN_SECONDS="1") as started:
            statuses, said = finish(started)
    assert statuses == [1, 2]
    [error] = errors_of(said)
    assert error == (
        f"ssmrank train: error: port {port} of node n1 cannot be used (Address already in use); set MASTER_PORT to a "
        "free one"
    )


def _workers(folder, count):
    end = time.monotonic() + 60
    while True:
        pids = [path.read_text() for path in folder.iterdir()]
        if len(pids) == count and all(pids):
            return [identity(int(pid)) for pid in pids]
        assert time.monotonic() < end
        time.sleep(0.01)


def _wait_for_end(workers):
    end = time.monotonic() + 10
    while any(map(is_alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.01)
