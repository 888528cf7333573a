"""A sharded training resumes from what each process wrote, in any number of processes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
from test_parallel import without_dropout

from ssmrank.training.state import TrainingState
from torch_forks import Forked

SCRIPT = Path(__file__).with_name("sharded_states.py")
GATHERS = ("step", "layer")
WAYS = (*GATHERS, "step, adapters", "layer, adapters")
"""With adapters, moments are in bfloat16."""
STOP = 3


def run_processes(cases, count):
    """Runs the script in this many processes; returns their exit statuses and errors."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment |= {"WORK": json.dumps(cases), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT)]
    started = [Forked(command, environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]
    try:
        errors = [process.communicate(timeout=200)[1] for process in started]
        return [process.returncode for process in started], errors
    finally:
        for process in started:
            process.kill()


def finish(cases, count):
    """Runs cases to their end; returns their results."""
    statuses, errors = run_processes(cases, count)
    assert statuses == [0] * count, "\n".join(errors)[-3000:]
    return [torch.load(Path(case["folder"], "result.pt")) for case in cases]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_model):
    return str(without_dropout(tiny_model("llama"), tmp_path_factory.mktemp("sharded") / "model"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, model_folder):
    """For each way, what an undisturbed training in two processes gives, and the folder of one that was stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    cases = {way: case_of(way, model_folder) for way in WAYS}
    stopping = [case | {"folder": str(folder / gather), "stop": STOP} for gather, case in cases.items()]
    whole = [case | {"folder": str(folder / f"{gather}-whole")} for gather, case in cases.items()]
    for case in (*stopping, *whole):
        Path(case["folder"]).mkdir()
    statuses, errors = run_processes([*stopping, *whole], 2)
    assert statuses == [0, 0], "\n".join(errors)[-3000:]
    results = [torch.load(Path(case["folder"], "result.pt")) for case in whole]
    return {way: (folder / way, result) for way, result in zip(WAYS, results, strict=True)}


def case_of(way, model_folder):
    gather, _, adapters = way.partition(", ")
    return {"gather": gather, "adapters": bool(adapters), "model": model_folder}


def copies(stopped, model_folder, tmp_path, pairs):
    """Cases that resume from copies of states; pairs: of the way that wrote a state and the one that resumes."""
    cases = []
    for written, gather in pairs:
        folder = shutil.copytree(stopped[written][0], tmp_path / f"{written}-{gather}")
        cases.append(case_of(gather, model_folder) | {"folder": str(folder)})
    return cases


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_training_resumes_in_any_number_of_processes_and_either_way(stopped, model_folder, tmp_path, count):
    pairs = [("step", "step"), ("layer", "layer"), ("step", "layer"), ("layer", "step")]
    pairs += [(way, way) for way in WAYS[len(GATHERS) :]]
    cases = copies(stopped, model_folder, tmp_path, pairs)
    for (written, gather), result in zip(pairs, finish(cases, count), strict=True):
        undisturbed = stopped[gather][1]
        if count == 2 and written == gather:
            assert result["losses"] == undisturbed["losses"]
            assert all(torch.equal(w, undisturbed["weights"][name]) for name, w in result["weights"].items())
        if written in WAYS[len(GATHERS) :]:  # each process rounds its part of the moments at random
            assert result["losses"] == pytest.approx(undisturbed["losses"], abs=1e-3)
            continue
        assert result["losses"] == pytest.approx(undisturbed["losses"], abs=1e-5)
        for name, weight in result["weights"].items():
            # Adam turns rounding errors into steps where gradients are almost zero, as that of the head's bias is.
            if name != "head.bias":
                assert (weight - undisturbed["weights"][name]).abs().max() <= 1e-4, (written, gather, name)


@pytest.mark.slow
@pytest.mark.parametrize("gather", GATHERS)
def test_a_process_killed_while_it_writes_leaves_the_last_state(stopped, model_folder, tmp_path, gather):
    [case] = copies(stopped, model_folder, tmp_path, [(gather, gather)])
    statuses, _ = run_processes([case | {"die": 2}], 2)
    assert statuses[0] == -signal.SIGKILL and statuses[1] != 0
    state = Path(case["folder"], "state")
    assert list(state.glob(".step-*.part"))  # half of a state
    [result] = finish([case], 2)
    assert not list(state.glob(".step-*.part"))
    assert result["losses"] == stopped[gather][1]["losses"]
    assert all(torch.equal(w, stopped[gather][1]["weights"][name]) for name, w in result["weights"].items())


@pytest.mark.slow
def test_each_process_writes_its_part(stopped):
    folder, _ = stopped["layer"]
    newest = max((folder / "state").glob("step-*"))
    sizes = {file.name: file.stat().st_size for file in (newest / "shards").iterdir()}
    assert sizes.keys() == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    assert sizes["__0_0.distcp"] == pytest.approx(sizes["__1_0.distcp"], rel=0.1)
    assert set(json.loads((newest / "manifest.json").read_text())["shards"]) == sizes.keys()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "lost", "metadata"])
def test_a_damaged_part_is_one_line_and_the_state_before_is_taken(stopped, tmp_path, caplog, damage):
    folder = shutil.copytree(stopped["step"][0], tmp_path / "copy") / "state"
    state = TrainingState(folder, "a")
    newest = state.newest()
    part = state.shards(newest) / (".metadata" if damage == "metadata" else "__1_0.distcp")
    if damage == "lost":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert state.newest() == newest - 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / f'step-{newest:08d}'}: the checkpoint is damaged; skipping it"
    ]
