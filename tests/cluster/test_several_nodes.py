"""One training on two nodes of Slurm: by srun, and by `ssmrank train` itself inside a job; a node is lost.

Each task has one process on the CPU. Only loopback is used, because both nodes are this machine.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast

from cluster.slurm import Slurm
from ssmrank.cli import main
from ssmrank.config.trainings import TrainSettings
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.trec import write_qrels
from ssmrank.models.backbones import random_backbone
from tiny_models import tiny_config

pytestmark = pytest.mark.timeout(900)

DOCUMENTS = {"d1": "mamba state space models", "d2": "river boat fish", "d3": "search engine index", "d4": "snow"}
QUERIES = {"q1": "mamba", "q2": "river", "q3": "search"}
GROUPS = [
    ("q1", "d1", ["d2", "d4"]),
    ("q2", "d2", ["d1", "d3"]),
    ("q3", "d3", ["d4", "d1"]),
    ("q1", "d1", ["d3", "d2"]),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection of four documents, training groups and a tiny Llama with random weights."""
    folder = tmp_path_factory.mktemp("several-nodes")
    split = folder / "collection" / "splits" / "train"
    split.mkdir(parents=True)
    for path, texts in ((folder / "collection" / "documents.jsonl", DOCUMENTS), (split / "queries.jsonl", QUERIES)):
        write_jsonl(path, ({"id": id, "text": text} for id, text in texts.items()))
    write_qrels(split / "qrels.txt", {query: {positive: 1} for query, positive, _ in GROUPS})
    groups = ({"query": query, "positive": positive, "negatives": others} for query, positive, others in GROUPS)
    write_jsonl(folder / "groups.jsonl", groups)
    words = ["[PAD]", "[UNK]", "[SEP]", *"document query : ;".split(), *" ".join(DOCUMENTS.values()).split()]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = AutoConfig.for_model(**({"vocab_size": len(words)} | tiny_config("llama")))
    random_backbone(config).save_pretrained(folder / "model")
    return folder


class Trainings:
    """Commands of `ssmrank train` on the files, and what they write."""

    def __init__(self, files: Path, slurm: Slurm) -> None:
        self.files, self.slurm = files, slurm

    def command(self, name: str, save_seconds: int = 0, **changes: object) -> list[str]:
        """`ssmrank train` with changed settings, into folders of this name."""
        values = {"collection": "c", "split": "train", "negatives": "n", "negatives_count": 2, "max_length": 32}
        values |= {"label": "", "learning_rate": 5e-3, "batch_groups": 4, "epochs": 6, "precision": "fp32"}
        settings = TrainSettings.model_validate(values | changes).model_dump_json()
        options = {"settings": settings, "model": self.files / "model", "kind": "D", "split": "train"}
        options |= {"collection": self.files / "collection", "negatives": self.files / "groups.jsonl"}
        options |= {"output": self.files / name / "output", "state": self.files / name / "state"}
        options["save-seconds"] = save_seconds
        words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
        return [sys.executable, "-m", "ssmrank", "train", *words]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Starts a client of Slurm; its standard error is read later."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("MASTER_")}
        environment = own | self.slurm.environment | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Its exit status, and what it said."""
        try:
            said = process.communicate(timeout=150)[1]
        finally:
            process.kill()
        return process.returncode, said

    def processes_on(self, node: str) -> list[psutil.Process]:
        """All processes that run there for a job."""
        mine = self.slurm.environment.items() | {("SLURMD_NODENAME", node)}
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if mine <= process.environ().items():
                    found.append(process)
        return found

    def wait_for_state(self, name: str, process: subprocess.Popen[str]) -> None:
        """Waits until a training has written two states."""
        end = time.monotonic() + 120
        while len(self.state(name)) < 2:
            assert time.monotonic() < end and process.poll() is None, process.communicate()[1]
            time.sleep(0.02)

    def state(self, name: str) -> list[Path]:
        """The states that a training has written."""
        return list((self.files / name / "state").glob("step-*"))

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.files / name / "output" / "model.safetensors")

    def losses(self, name: str) -> list[float]:
        return json.loads((self.files / name / "output" / "outcome.json").read_text())["loss"]


@pytest.fixture
def trainings(files: Path, slurm: Slurm) -> Trainings:
    return Trainings(files, slurm)


def errors_of(said: str) -> list[str]:
    """The lines that are neither of the log nor of Slurm."""
    return [line for line in said.splitlines() if line.startswith("ssmrank") or "Traceback" in line]


def test_two_tasks_of_srun_give_what_one_process_gives(trainings: Trainings) -> None:
    assert main(trainings.command("one")[3:]) == 0
    words = trainings.command("srun", parallel="ddp")
    status, said = trainings.finish(trainings.start("srun", "--nodes=2", "--ntasks=2", *words))
    assert status == 0, said
    assert "process 0 of 2" in said
    assert trainings.losses("srun") == pytest.approx(trainings.losses("one"), abs=1e-5)
    one, two = trainings.weights("one"), trainings.weights("srun")
    for name, weight in one.items():
        # Adam turns rounding errors into steps where gradients are almost zero, as that of the head's bias is.
        if name != "head.bias":
            assert (weight - two[name]).abs().max() <= 1e-4, name


def test_a_lost_node_is_one_line_and_a_new_job_gives_the_same_bytes(trainings: Trainings) -> None:
    """`ssmrank train` runs once, in a job of two nodes, and starts the tasks itself."""
    # As the rule `train` asks for them.
    job = ("salloc", "--quiet", "--nodes=2", "--gpus=2", "--ntasks=2", "--cpus-per-task=8", "--mem=64000")
    job = (*job, "--ntasks-per-node=1", "--gpus-per-node=1")
    changes = {"parallel": "fsdp2", "nodes": 2, "epochs": 40}
    process = trainings.start(*job, *trainings.command("lost", **changes))
    trainings.wait_for_state("lost", process)
    for task in trainings.processes_on("n2"):
        with suppress(psutil.NoSuchProcess):  # a process ends with its launcher
            task.kill()
    status, said = trainings.finish(process)
    assert status == 2, said
    [error] = errors_of(said)
    assert error.startswith("ssmrank train: error: node n2 with process 1 of 2 no longer answers; the others were")
    assert trainings.state("lost") and not (trainings.files / "lost" / "output").exists()

    for name in ("lost", "whole"):
        words = trainings.command(name, save_seconds=600, **changes)
        status, said = trainings.finish(trainings.start(*job, *words))
        assert status == 0 and ("resuming after step" in said) == (name == "lost"), said
    resumed, undisturbed = trainings.weights("lost"), trainings.weights("whole")
    assert all(torch.equal(weight, undisturbed[name]) for name, weight in resumed.items())


def test_a_port_that_is_taken_is_one_line(trainings: Trainings) -> None:
    words = trainings.command("taken", parallel="ddp", nodes=2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        job = ("salloc", "--quiet", "--nodes=2", "--ntasks=2", "env", f"MASTER_PORT={port}", "SSMRANK_JOIN_SECONDS=5")
        status, said = trainings.finish(trainings.start(*job, *words))
    assert status == 2
    assert errors_of(said) == [
        f"ssmrank train: error: port {port} of node n1 cannot be used (Address already in use); set MASTER_PORT to a "
        "free one"
    ]


def test_slurm_s_own_process_of_a_node_may_be_lost(trainings: Trainings) -> None:
    """Its task is left without Slurm, and ends itself and all others."""
    words = trainings.command("watched", parallel="fsdp2", epochs=4000)
    process = trainings.start("srun", "--nodes=2", "--ntasks=2", *words)
    trainings.wait_for_state("watched", process)
    tasks = trainings.processes_on("n2")
    for watching in {parent for task in tasks for parent in task.parents() if parent.name().startswith("slurmstepd")}:
        watching.kill()
    # srun itself waits for Slurm to miss the node; what it waits for has ended long before.
    _, left = psutil.wait_procs([*tasks, *trainings.processes_on("n1")], timeout=60)
    assert not left
    process.terminate()
    [error] = errors_of(trainings.finish(process)[1])
    assert error.startswith("ssmrank train: error: node n2 with process 1 of 2 was stopped; the others were stopped;")
