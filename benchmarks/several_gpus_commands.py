"""Checks `ssmrank rerank` and `ssmrank train` in several processes, on a small collection of random words.

Reranking: several processes and one write the same run, byte for byte. Training: a worker is killed, the others end
with one line, and the same command then resumes and reaches the losses and weights of a training that never stopped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from several_gpus_report import Report
from shapes import CLASSES
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ssmrank.config.rerankings import Reranking
from ssmrank.config.trainings import TrainSettings
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.trec import write_run
from ssmrank.models.quiet import quiet_transformers
from ssmrank.models.reranker import new_reranker

TIMEOUT = 150.0
"""Time limit of a command in seconds."""
_MIDDLE = 30
"""Steps of the saved state after which a worker is killed."""
_LOGGED = re.compile(r"\d\d:\d\d:\d\d ")
_GO_ON = "start again to resume from the last saved state"


class Collection:
    """A folder with a collection, its groups, a first-stage run, and a small Mamba-2 without dropout."""

    def __init__(self, folder: Path, device: str, cards: int) -> None:
        self.folder, self.device, self.cards = folder, device, cards
        generator = np.random.default_rng(0)
        words = [f"word{number}" for number in range(500)]

        def texts(kind: str, count: int, shortest: int, longest: int) -> dict[str, str]:
            lengths = generator.integers(shortest, longest, count)
            return {f"{kind}{number}": " ".join(generator.choice(words, n)) for number, n in enumerate(lengths)}

        documents, queries = texts("d", 400, 20, 100), texts("q", 30, 3, 12)
        split = folder / "collection" / "splits" / "train"
        split.mkdir(parents=True)
        for path, side in ((folder / "collection" / "documents.jsonl", documents), (split / "queries.jsonl", queries)):
            write_jsonl(path, ({"id": id, "text": text} for id, text in side.items()))
        drawn = [(query, generator.choice(list(documents), 4, replace=False)) for query in list(queries) * 40]
        groups = ({"query": query, "positive": ids[0], "negatives": ids[1:].tolist()} for query, ids in drawn)
        write_jsonl(folder / "groups.jsonl", groups)
        first_stage = {query: generator.choice(list(documents), 100, replace=False) for query in queries}
        ranked = {query: [(id, 100.0 - rank) for rank, id in enumerate(ids)] for query, ids in first_stage.items()}
        write_run(folder / "first.trec", ranked, "first")
        self._write_model(words)

    def _write_model(self, words: list[str]) -> None:
        vocabulary = {
            word: number
            for number, word in enumerate(["[PAD]", "[UNK]", "[SEP]", *"document query : ;".split(), *words])
        }
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(self.folder / "model")
        shape = next(shape for shape in CLASSES["4M"] if shape.config["model_type"] == "mamba2")
        changes = {"hidden_size": 64, "num_heads": 2, "num_hidden_layers": 2} if self.device == "cpu" else {}
        with quiet_transformers():
            shape.ours(vocab_size=len(vocabulary), **changes).save_pretrained(self.folder / "model")
        new_reranker(self.folder / "model", "D", 128).save(self.folder / "checkpoint")

    def start(self, name: str, *words: str | Path) -> subprocess.Popen:
        """Starts a command; its standard error goes to the file `name`.log."""
        command = [sys.executable, "-m", "ssmrank", *map(str, words)]
        source = str(Path(__file__).resolve().parents[1] / "src")
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path}
        if self.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        with (self.folder / f"{name}.log").open("w") as stream:
            return subprocess.Popen(command, env=environment, stderr=stream)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def finish(self, name: str, process: subprocess.Popen) -> None:
        """Waits until a command ends; raises RuntimeError with its last lines if it fails."""
        try:
            status = process.wait(TIMEOUT)
        finally:
            process.kill()
        if status != 0:
            raise RuntimeError(f"{name} ended with status {status}: {self.log(name)[-1500:]}")


def rerank(report: Report, collection: Collection) -> None:
    """Compares the runs of one process and of several."""
    folder = collection.folder
    started = {}
    for processes in (1, collection.cards):
        settings = Reranking(retriever="bm25", depth=100, token_budget=2048, processes=processes)
        words = ["rerank", "--settings", settings.model_dump_json(), "--checkpoint", folder / "checkpoint"]
        words += ["--collection", folder / "collection", "--split", "train", "--run", folder / "first.trec"]
        started[processes] = collection.start(f"rerank{processes}", *words, "--output", folder / f"{processes}.trec")
    for processes, process in started.items():
        collection.finish(f"rerank{processes}", process)
    one, several = ((folder / f"{processes}.trec").read_bytes() for processes in started)
    text = f"runs of one process and of {collection.cards}, {len(one.splitlines()):,} lines, are the same bytes"
    report.check("ssmrank rerank", one == several and len(one.splitlines()) == 3000, text)


def kill(report: Report, collection: Collection) -> None:
    """Kills the second worker after a saved state, resumes, and compares with a training that was not stopped."""
    whole = collection.start("whole", *_train_words(collection, "whole"))
    process = collection.start("killed", *_train_words(collection, "killed"))
    try:
        _wait_for_state(collection, process)
        os.kill(_worker(process.pid, rank=1), signal.SIGKILL)
        killed = time.monotonic()
        status = process.wait(TIMEOUT)
        seconds = time.monotonic() - killed
        lines = [line for line in collection.log("killed").splitlines() if not _LOGGED.match(line)]
        said = [line for line in lines if _GO_ON in line]
        text = f"a worker was killed, all had ended after {seconds:.1f} s, with status {status}; they said: {said}"
        others = f" and {len(lines) - len(said)} other lines: {lines}" if len(lines) > len(said) else ""
        clear = len(said) == 1 and not any("Traceback" in line for line in lines)
        report.check("ssmrank train, killed", seconds < 60 and status == 2 and clear, text + others)
        collection.finish("resumed", collection.start("resumed", *_train_words(collection, "killed")))
        collection.finish("whole", whole)
    finally:
        whole.kill()
        process.kill()
    went_on = re.search(r"resuming after step \d+ of \d+", collection.log("resumed"))
    files = [collection.folder / name / "output" / "model.safetensors" for name in ("whole", "killed")]
    losses = [json.loads((file.parent / "outcome.json").read_text())["loss"] for file in files]
    same = files[0].read_bytes() == files[1].read_bytes() and losses[0] == losses[1]
    result = "weights are the same bytes, and all losses" if same else _difference(files, losses)
    report.check("ssmrank train, resumed", same and went_on is not None, f"{went_on and went_on[0]}; {result}")


def _train_words(collection: Collection, name: str) -> list[str | Path]:
    folder = collection.folder
    settings = TrainSettings(
        collection="c",
        split="train",
        negatives="n",
        negatives_count=3,
        max_length=128,
        label="FirstP",
        learning_rate=1e-3,
        batch_groups=max(8, collection.cards),  # at least one for each process
        epochs=1.0 if collection.device == "cpu" else 4.0,  # of 150 steps
        length_grouped=True,
        parallel="ddp",
        processes=collection.cards,
    )
    words = ["train", "--settings", settings.model_dump_json(), "--model", folder / "model", "--kind", "D"]
    words += ["--collection", folder / "collection", "--split", "train", "--negatives", folder / "groups.jsonl"]
    words += ["--output", folder / name / "output", "--state", folder / name / "state", "--save-seconds", "0.5"]
    return words


def _wait_for_state(collection: Collection, process: subprocess.Popen) -> None:
    """Waits until a state in the middle of the training was written and some more steps are done."""
    end = time.monotonic() + TIMEOUT
    state = collection.folder / "killed" / "state"
    while not any(int(saved.name.removeprefix("step-")) >= _MIDDLE for saved in state.glob("step-*")):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the training wrote no state: {collection.log('killed')[-1500:]}")
        time.sleep(0.01)
    time.sleep(0.2)


def _worker(launcher: int, rank: int) -> int:
    """The process id of the launcher's worker of this rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == launcher and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:  # the process has ended, or is another user's
            continue
    raise RuntimeError(f"process {launcher} has no worker {rank}: the training ended before it could be killed")


def _difference(files: list[Path], losses: list[list[float]]) -> str:
    weights = [load_file(file) for file in files]
    largest = max((one - weights[1][name]).abs().max().item() for name, one in weights[0].items())
    norms = [torch.cat([tensor.flatten() for tensor in side.values()]) for side in weights]
    apart = ((norms[0] - norms[1]).norm() / norms[0].norm()).item()
    loss = max(abs(one - other) for one, other in zip(*losses, strict=True))
    return f"weights differ by {largest:.1e} at most ({apart:.1e} of their norm), losses by {loss:.1e}"
