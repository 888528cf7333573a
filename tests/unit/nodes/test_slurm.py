from __future__ import annotations

import os
import subprocess
import sys

import pytest

from slurm_tasks import environment_of
from ssmrank.errors import UserError
from ssmrank.nodes.slurm import first_of, starting_process, this_task


@pytest.fixture
def place(monkeypatch):
    """A function that sets the environment of a task; None removes a variable."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "MASTER_")) or name == "RANK"]:
        monkeypatch.delenv(name)

    def set_environment(rank=1, count=2, **changes):
        for name, value in (environment_of(rank, count, 23456) | changes).items():
            monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)

    return set_environment


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu[007-009,12],login", "gpu007"),
        ("rack[2-3]node[04,06]-ib,login", "rack2node04-ib"),
        ("a-b.c[5]", "a-b.c5"),
        ("", ""),
    ],
)
def test_the_first_of_a_list_of_nodes(nodes, first):
    assert first_of(nodes) == first


def test_a_task_knows_its_place(place):
    place(rank=1, count=4, SLURM_NNODES="2", SLURM_LOCALID="1", SLURMD_NODENAME="n1")
    task = this_task()
    assert (task.rank, task.count, task.local, task.nodes, task.node, task.step) == (1, 4, 1, 2, "n1", "7.0")
    assert (task.address, task.port, task.is_on_one_host) == ("127.0.0.1", 23456, True)


def test_a_step_s_numbers_come_before_the_job_s(place):
    place(rank=1, count=8, SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NUM_NODES="1")
    assert (this_task().count, this_task().nodes) == (2, 1)


def test_the_address_is_that_of_the_first_node_and_the_port_differs_between_steps(place):
    place(MASTER_ADDR=None, MASTER_PORT=None, SLURM_STEP_NODELIST="localhost,n9")
    task = this_task()
    assert task.address == "localhost"
    place(MASTER_ADDR=None, MASTER_PORT=None, SLURM_STEP_NODELIST="localhost,n9", SLURM_STEP_ID="1")
    assert 20000 <= task.port < 30000 and this_task().port != task.port


def test_a_step_on_one_node_uses_loopback(place):
    place(MASTER_ADDR=None, SLURM_NNODES="1")
    assert this_task().address == "127.0.0.1"


@pytest.mark.parametrize(
    "changes",
    [{"SLURM_STEP_ID": None}, {"SLURM_STEP_ID": "batch"}, {"SLURM_NTASKS": "1"}, {"RANK": "0"}],
    ids=["batch script", "named step", "one task", "torchrun"],
)
def test_a_process_that_is_not_one_of_several_tasks(place, changes):
    place(**changes)
    assert this_task() is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"SLURM_PROCID": "2"}, r"SLURM_PROCID is 2, but Slurm's step 7.0 has 2 tasks; start it with srun"),
        ({"SLURM_PROCID": None}, r"SLURM_PROCID is not set, but SLURM_STEP_ID is; start the training with srun"),
        ({"SLURM_LOCALID": "x"}, r"SLURM_LOCALID is 'x', which is no number"),
        ({"MASTER_PORT": "http"}, r"MASTER_PORT is 'http', which is no number"),
        (
            {"MASTER_ADDR": None, "PATH": "", "SLURM_JOB_NODELIST": "no such host[1-2]"},
            r"node 'no such host1', the first of this Slurm step, has no address here; set MASTER_ADDR",
        ),
    ],
)
def test_an_environment_that_slurm_does_not_make_is_one_line(place, changes, line):
    place(**changes)
    with pytest.raises(UserError, match=f"^{line}"):
        this_task()


def test_slurm_s_own_process_is_found_above_a_shell():
    parents = (
        "import ctypes, subprocess, sys; ctypes.CDLL(None).prctl(15, b'slurmstepd'); "
        "subprocess.run(['sh', '-c', f'{sys.executable} -c \"$0\"; true', sys.argv[1]])"
    )
    code = "from ssmrank.nodes.slurm import starting_process as found; print(found(), flush=True)"
    with subprocess.Popen([sys.executable, "-c", parents, code], stdout=subprocess.PIPE, text=True) as process:
        assert int(process.stdout.readline()) == process.pid
    assert starting_process() == os.getppid()
