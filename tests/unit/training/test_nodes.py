"""`ssmrank train` as two tasks of Slurm, whose environment is set by hand; tests/cluster has a real Slurm."""

from __future__ import annotations

import json
import socket
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_parallel import without_dropout
from tiny_training import settings

from slurm_tasks import finish, free_port, tasks
from ssmrank.cli import main
from torch_forks import Forked

trainings = partial(tasks, start=Forked)


@pytest.fixture
def command(options, tiny_model, tmp_path):
    """A function that returns the command of a training with changed settings, whose folders have this name."""
    folder = without_dropout(tiny_model("llama"), tmp_path / "model")
    line = options("llama", "D")

    def words(name, save_seconds=0, **changes):
        own = {"--model": folder, "--output": tmp_path / name / "output", "--state": tmp_path / name / "state"}
        own["--settings"] = settings(**({"epochs": 6, "parallel": "ddp"} | changes)).model_dump_json()
        pairs = zip(line[1::2], line[2::2], strict=True)
        options = [word for option, value in pairs for word in (option, str(own.get(option, value)))]
        return [sys.executable, "-m", "ssmrank", "train", *options, "--save-seconds", str(save_seconds)]

    return words


def error_of(said):
    """The one line that is no line of the log."""
    [line] = [line for text in said for line in text.splitlines() if line.startswith("ssmrank") or "Error" in line]
    return line


def weights_of(folder):
    return load_file(folder / "output" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_tasks_give_what_one_process_gives(command, tmp_path, parallel):
    assert main(command("one", parallel="none")[3:]) == 0
    with trainings([command("two", parallel=parallel)] * 2) as started:
        statuses, said = finish(started, 120)
    assert statuses == [0, 0], said
    losses = [json.loads((tmp_path / name / "output" / "outcome.json").read_text())["loss"] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name, weight in one.items():
        # Adam turns rounding errors into steps where gradients are almost zero, as that of the head's bias is.
        if name != "head.bias":
            assert (weight - two[name]).abs().max() <= 1e-4, name
    assert "process 0 of 2" in said[0] and said[1] == ""
    assert not (tmp_path / "two" / "state").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("parallel", "lost"), [("ddp", 1), ("fsdp2", 0)])
def test_a_lost_node_ends_all_and_a_new_start_gives_the_same_bytes(command, tmp_path, parallel, lost):
    changes = {"parallel": parallel, "epochs": 80}
    with trainings([command("lost", **changes)] * 2) as started:
        _wait_for_state(tmp_path / "lost" / "state", started)
        started[lost].kill()
        statuses, said = finish(started, 30)
    assert statuses[1 - lost] == 2
    node = "node n2 with process 1 of 2 no" if lost else "the node of process 0 of 2 no"
    assert error_of(said).startswith(f"ssmrank train: error: {node} longer answers")
    assert not (tmp_path / "lost" / "output").exists()
    for name in ("lost", "whole"):
        with trainings([command(name, save_seconds=600, **changes)] * 2) as started:
            statuses, said = finish(started, 120)
        assert statuses == [0, 0], said
        assert ("resuming after step" in said[0]) == (name == "lost")
    resumed, whole = weights_of(tmp_path / "lost"), weights_of(tmp_path / "whole")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(weight, whole[name]) for name, weight in resumed.items())


@pytest.mark.slow
def test_a_state_on_a_disk_of_each_node_is_one_line(command, tmp_path):
    with trainings([command(name) for name in ("a", "b")]) as started:
        statuses, said = finish(started, 60)
    assert statuses == [2, 2]
    assert error_of(said) == (
        f"ssmrank train: error: {tmp_path}/a/state: node n2 does not see what node n1 writes there; put the state into "
        "a folder that all nodes share"
    )


@pytest.mark.slow
def test_other_files_on_a_node_are_one_line(command, tmp_path):
    other = command("a")
    groups = Path(other[other.index("--negatives") + 1])
    other[other.index("--negatives") + 1] = str(groups.with_name("other.jsonl"))
    groups.with_name("other.jsonl").write_text("".join(reversed(groups.read_text().splitlines(keepends=True))))
    with trainings([command("a"), other]) as started:
        statuses, said = finish(started, 60)
    assert statuses == [2, 2]
    assert error_of(said) == (
        "ssmrank train: error: node n2 has other files or settings of this training than node n1; give all nodes the "
        "same"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"processes": 3},
            "Slurm's step 7.0 has 2 tasks, but trainings say processes: 3; start one task for each node",
        ),
        ({"nodes": 3, "processes": 6}, "Slurm's step 7.0 has 2 nodes, but trainings say nodes: 3"),
        ({"parallel": "none"}, "several processes were started, but trainings say parallel: none; set ddp or fsdp2"),
    ],
)
def test_settings_that_do_not_fit_the_step_are_one_line(command, tmp_path, changes, line):
    with trainings([command("a", **changes)] * 2) as started:
        statuses, said = finish(started, 60)
    assert statuses == [2, 2]
    assert error_of(said).startswith(f"ssmrank train: error: {line}")
    assert not (tmp_path / "a").exists()


def test_nodes_without_slurm_are_one_line(command, capsys, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert main(command("a", nodes=2)[3:]) == 2
    assert "error: nodes: 2 needs a job of Slurm, or torchrun on each node" in capsys.readouterr().err


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]


@pytest.mark.slow
def test_torchrun_on_two_nodes_gives_the_same(command, tmp_path):
    words = [*TORCHRUN, "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    started = [[*words, "--node-rank", str(rank), *command("torchrun")[1:]] for rank in range(2)]
    with tasks(started, SLURM_STEP_ID="") as processes:
        statuses, said = finish(processes, 120)
    assert statuses == [0, 0], said
    with trainings([command("slurm")] * 2) as processes:
        assert finish(processes, 120)[0] == [0, 0]
    torchrun, slurm = weights_of(tmp_path / "torchrun"), weights_of(tmp_path / "slurm")
    assert all(torch.equal(weight, slurm[name]) for name, weight in torchrun.items())


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"RANK": "0"}, "LOCAL_RANK is not set; start the training with torchrun"),
        ({"WORLD_SIZE": "3"}, "3 processes were started, but trainings say processes: 2; start as many"),
        ({"GROUP_WORLD_SIZE": "4"}, "torchrun runs on 4 nodes, but trainings say nodes: 2; make them equal"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'; start the training with torchrun"),
    ],
)
def test_an_environment_that_does_not_fit_the_settings_is_one_line(command, capsys, monkeypatch, environment, line):
    complete = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in (environment if environment == {"RANK": "0"} else complete | environment).items():
        monkeypatch.setenv(name, value)
    assert main(command("a", processes=2, nodes=2)[3:]) == 2
    assert f"ssmrank train: error: {line}" in capsys.readouterr().err


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_master_that_cannot_be_reached_is_one_line(command, capsys, monkeypatch, rank):
    """The first process finds its port taken; another one finds nobody there."""
    monkeypatch.setattr("ssmrank.training.processes.TIMEOUT", timedelta(seconds=1))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1] if rank == "0" else free_port())
        place = {"RANK": rank, "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        assert main(command("a")[3:]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(
        f"ssmrank train: error: process {rank} of 2: no connection with the others through 127.0.0.1"
    )


def _wait_for_state(state, started):
    end = time.monotonic() + 120
    while len(list(state.glob("step-*"))) < 2:
        assert time.monotonic() < end and all(process.poll() is None for process in started)
        time.sleep(0.01)
