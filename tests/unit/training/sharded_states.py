"""One process of trainings that stop and resume; a script of test_sharded_states.py.

The environment variable WORK has the cases as JSON, each {"gather", "model", "folder", "stop", "die"}. A case trains
from the state in `folder`, if there is one, with a new state after each step. It stops when step `stop` is reported, or
the first process is killed while it writes its part of its `die`-th state. Otherwise the first process writes losses
and weights to `folder`/result.pt.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from ssmrank.startup import importing

with importing():
    import torch
    import torch.distributed.checkpoint as dcp
    from parallel_training import CPU, LORA, Stopped, model
    from tiny_training import sequences, settings

    from ssmrank.training.gathered import GatheredOnce
    from ssmrank.training.loop import train
    from ssmrank.training.processes import workers_of
    from ssmrank.training.sharded import Sharded
    from ssmrank.training.state import TrainingState

WORKERS = {"step": GatheredOnce, "layer": Sharded}


def die_while_writing(number: int) -> None:
    """Kills this process in its `number`-th call of FileSystemWriter.write_data, after half of its file is written."""
    write, calls = dcp.FileSystemWriter.write_data, [0]

    def write_half(self, *arguments):
        calls[0] += 1
        written = write(self, *arguments)
        if calls[0] == number:
            written.wait()
            [file] = Path(self.path).glob("__0_*")
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    dcp.FileSystemWriter.write_data = write_half


def run(case) -> None:
    workers, folder = WORKERS[case["gather"]](), Path(case["folder"])
    if case.get("die") and workers.rank == 0:
        die_while_writing(case["die"])

    def on_step(step: int, loss: float) -> None:
        if step == case.get("stop"):
            raise Stopped

    lora = LORA if case["adapters"] else None

    def new():
        return model(case["model"], "D", lora)

    reranker, state = new(), TrainingState(folder / "state", "a")
    options = {"save_seconds": 0.0, "workers": workers, "on_step": on_step}
    try:
        chosen = settings(epochs=6, optimizer_states="bfloat16" if lora else "float32")
        history = train(reranker, sequences(reranker), chosen, CPU, state, **options)
    except Stopped:
        return
    weights = workers.weights(reranker) if lora else workers.whole(reranker, new).state_dict()
    if workers.rank == 0:
        torch.save({"losses": history.loss, "weights": weights}, folder / "result.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with workers_of("ddp", CPU):
        for case in json.loads(os.environ["WORK"]):
            run(case)
    sys.exit(0)
