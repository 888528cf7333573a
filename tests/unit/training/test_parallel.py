from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parallel_training import LORA, bi_encoder_gradients, final_weights, model, step_gradients

from ssmrank.errors import UserError
from ssmrank.launch import LAUNCHED, LOST
from ssmrank.training.parallel import Replicated, Workers

SCRIPT = Path(__file__).with_name("parallel_training.py")


def run_processes(cases, count=2):
    """Runs the script in processes as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(count):
        environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORK": json.dumps(cases)}
        environment |= {"OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen([sys.executable, SCRIPT], env=environment, stderr=subprocess.PIPE, text=True))
    try:
        for process in started:
            error = process.communicate(timeout=200)[1]
            assert process.returncode == 0, error[-3000:]
    finally:
        for process in started:
            process.kill()


WHOLE = [
    ("ddp", "fp32", "llama", "D"),
    ("ddp", "fp32", "bamba", "D"),
    ("fsdp2, step", "fp32", "bert", "E"),
    ("fsdp2, step", "bf16", "mamba2", "D"),
    ("fsdp2, step", "bf16", "mamba", "D"),
    ("fsdp2, layer", "fp32", "mamba2", "D"),
    ("fsdp2, units of layers", "bf16", "mamba2", "D"),
    ("fsdp2, units of layers", "bf16", "llama", "D"),
    ("fsdp2, units of layers", "bf16", "bert", "E"),
    ("fsdp2, step", "bf16", "granitemoehybrid", "D"),
    ("fsdp2, layer", "fp32", "granitemoehybrid", "D"),
    ("fsdp2, units of layers", "bf16", "zamba2", "D"),
    ("fsdp2, layer", "fp32", "zamba2", "D"),
    ("fsdp2, step", "bf16", "mamba3", "D"),
    ("fsdp2, layer", "fp32", "mamba3-normed", "D"),
    ("fsdp2, step", "bf16", "gated_deltanet", "D"),
    ("fsdp2, layer", "fp32", "gated_deltanet-attends-last", "D"),
]
ADAPTED = [
    ("ddp", "fp32", "llama-3.2", "D"),
    ("ddp", "bf16", "mamba", "D"),
    ("fsdp2, step", "fp32", "mamba", "D"),
    ("fsdp2, step", "bf16", "bamba", "D"),
    ("fsdp2, layer", "fp32", "mamba2", "D"),
    ("fsdp2, layer", "fp32", "mamba3", "D"),
    ("fsdp2, layer", "fp32", "gated_deltanet", "D"),
    ("fsdp2, step", "fp32", "zamba2", "D"),
    ("fsdp2, layer", "fp32", "zamba2", "D"),
    ("fsdp2, units of layers", "bf16", "llama-3.2", "D"),
    ("fsdp2, units of layers", "bf16", "bert", "E"),
]
CASES = [*((*case, "all weights") for case in WHOLE), *((*case, "adapters") for case in ADAPTED)]


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_model):
    """The results of two processes for each case."""
    cases = []
    for number, (workers, precision, model_type, kind, what) in enumerate(CASES):
        folder = tmp_path_factory.mktemp(f"case-{number}")
        model_folder = str(without_dropout(tiny_model(model_type), folder / "model"))
        case = {"workers": workers, "precision": precision, "model": model_folder, "kind": kind, "folder": str(folder)}
        cases.append(case | {"lora": what == "adapters"})
    run_processes(cases)
    return {
        names: (case, torch.load(Path(case["folder"], "result.pt"))) for case, names in zip(cases, CASES, strict=True)
    }


def without_dropout(folder, copy):
    """Each process draws its own dropout."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {key: 0.0 for key in config if "dropout" in key}))
    return copy


@pytest.mark.slow
def test_processes_of_one_host_listen_on_loopback_alone(results):
    _, found = results[CASES[0]]
    assert all(found["listening"])
    assert {address for process in found["listening"] for address in process} == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.parametrize("names", CASES, ids=", ".join)
def test_two_processes_give_what_one_gives(results, tmp_path, names):
    case, result = results[names]
    precision, kind = case["precision"], case["kind"]
    # One process has the same micro-batches here, so even bfloat16 rounds alike.
    lora = LORA if case["lora"] else None
    loss, gradients = step_gradients(model(case["model"], kind, lora, precision), Workers(), 30, precision)
    for step in result.keys() & {"step", "recomputed step", "repeated step"}:
        their_loss, their_gradients = result[step]
        assert their_loss == pytest.approx(loss, abs=1e-6), step
        assert their_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert (gradient - their_gradients[name]).abs().max() <= 1e-6, (step, name)
    their_losses, their_weights = result["training"]
    if precision == "bf16":
        losses, weights = result["whole training"]
        assert their_losses == losses
        assert all(torch.equal(weight, their_weights[name]) for name, weight in weights.items())
        return
    states = {"optimizer_states": "bfloat16"} if names[0] == "ddp" and lora else {}
    losses, weights = final_weights(model(case["model"], kind, lora), Workers(), tmp_path, None, **states)
    assert their_losses == pytest.approx(losses, abs=1e-5)
    assert their_weights.keys() == weights.keys()
    for name, gradient in gradients.items():
        # Adam turns rounding errors into steps for parameters that do not affect the loss, such as the head's bias.
        if gradient.abs().max() > 1e-5:
            assert (weights[name] - their_weights[name]).abs().max() <= 1e-4, name


@pytest.mark.parametrize(
    "names", [case for case in CASES if case[1] == "fp32" and case[4] == "all weights"], ids=", ".join
)
def test_a_bi_encoder_s_negatives_are_those_of_all_processes(results, names):
    case, result = results[names]
    loss, gradients = bi_encoder_gradients(case["model"], case["kind"], Workers(), 10**6)
    their_loss, their_gradients = result["bi-encoder"]
    assert their_loss == pytest.approx(loss, abs=1e-5)
    assert their_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient - their_gradients[name]).abs().max() <= 1e-5 * max(1.0, gradient.abs().max()), name


def test_a_process_left_alone_says_so_where_nobody_else_does(monkeypatch):
    workers = Replicated.__new__(Replicated)
    workers.rank, workers.size = 0, 2

    def lose():
        with workers._others():
            raise RuntimeError("[/src/gloo/tcp/pair.cc:537] Read error: Connection reset. This is typically caused by")

    monkeypatch.delenv(LAUNCHED, raising=False)
    with pytest.raises(UserError, match=r"^process 0 of 2: another .*\(Read error: Connection reset\); start again"):
        lose()
    monkeypatch.setenv(LAUNCHED, "1")
    with pytest.raises(SystemExit) as left:
        lose()
    assert left.value.code == LOST
