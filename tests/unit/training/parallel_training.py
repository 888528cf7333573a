"""One process of a parallel training; a script of test_parallel.py.

The environment variable WORK has the cases as JSON, each {"workers", "precision", "model", "kind", "lora", "folder"}. A
case computes the gradients of one step, without and with layers that recompute, and if a process may repeat its part
also those of a step that runs out of memory in the first process. It then trains from the same weights, with a stop and
a resume.
The first process writes its results to `folder`/result.pt. Imports take seconds, so the cases share them.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import psutil

from ssmrank.startup import importing

with importing():
    import torch
    from tiny_training import bi_encoder, sequences, settings, text_groups

    from ssmrank.config.trainings import Lora
    from ssmrank.models.reranker import new_reranker
    from ssmrank.training.adapters import add_adapters
    from ssmrank.training.cached_gradients import CachedGradients
    from ssmrank.training.contrastive import ContrastiveLoss
    from ssmrank.training.gathered import GatheredOnce
    from ssmrank.training.gradients import Accumulator
    from ssmrank.training.loop import train
    from ssmrank.training.loss import LOSSES
    from ssmrank.training.memory import recompute_layers
    from ssmrank.training.parallel import Replicated, Workers, has_frozen
    from ssmrank.training.processes import workers_of
    from ssmrank.training.sharded import Sharded
    from ssmrank.training.state import TrainingState

CPU = torch.device("cpu")


KINDS = {
    "ddp": Replicated,
    "fsdp2, step": GatheredOnce,
    "fsdp2, layer": partial(Sharded, unit_bytes=1),
    "fsdp2, units of layers": partial(Sharded, unit_bytes=2**40),
}


class Stopped(BaseException):
    pass


LORA = Lora(rank=4, alpha=8)


def model(folder, kind, lora=None, precision="fp32"):
    """A reranker; with `lora` one with adapters, as `ssmrank train` makes it for this precision."""
    torch.manual_seed(0)
    reranker = new_reranker(folder, kind, 32)
    if lora is not None:
        add_adapters(reranker, lora, precision)
        for name, parameter in reranker.named_parameters():
            if ".lora_B." in name:  # else the first matrices would have no gradients yet
                torch.nn.init.normal_(parameter, std=0.1)
    return reranker


def step_gradients(
    reranker, workers: Workers, token_budget: int, precision="fp32", recompute=0.0, loss=LOSSES["cross_entropy"]
):
    """The loss and the whole (unsharded) gradients of one step with all groups."""
    data = sequences(reranker)
    recompute_layers(reranker.backbone, recompute)
    workers.prepare(reranker.train(), precision)
    accumulator = Accumulator(reranker, loss, precision, CPU, token_budget, workers)
    own = workers.share(range(len(data)))
    loss = accumulator([data[index] for index in own], len(data))
    return loss.item(), workers.gradients(reranker)


def bi_encoder_gradients(folder, kind, workers: Workers, token_budget: int):
    """The loss and the whole gradients of a bi-encoder's step with all groups."""
    model = bi_encoder(folder, kind)
    data = text_groups(model)
    workers.prepare(model.train(), "fp32")
    loss = ContrastiveLoss((model.width, 8))
    cached = CachedGradients(model, loss, True, "fp32", CPU, token_budget, workers)
    own = workers.share(range(len(data)))
    return cached([data[index] for index in own], len(data)).item(), workers.gradients(model)


class FullOnce:
    """The loss of a process whose memory runs out in its first pass, after some gradients were added."""

    full = True

    def __call__(self, scores, targets):
        if self.full:
            self.full = False
            scores.sum().backward(retain_graph=True)
            raise torch.OutOfMemoryError("full")
        return LOSSES["cross_entropy"](scores, targets)


def final_weights(reranker, workers: Workers, folder: Path, new, stop: int | None = None, **changes):
    """Losses and weights of a training; it is stopped after a step and resumed if `stop` is set."""

    def on_step(step: int, loss: float) -> None:
        if step == stop:
            raise Stopped

    chosen = settings(epochs=6, length_grouped=True, **changes)
    data = sequences(reranker)
    options = {"save_seconds": 0.0, "workers": workers}
    if stop is not None:
        try:
            train(reranker, data, chosen, CPU, TrainingState(folder, "a"), on_step=on_step, **options)
        except Stopped:
            reranker = new()
    history = train(reranker, data, chosen, CPU, TrainingState(folder, "a"), **options)
    if has_frozen(reranker):
        weights = {name: tensor.clone() for name, tensor in workers.gather(workers.weights(reranker))[0].items()}
        for parameter in reranker.parameters():
            if parameter.requires_grad:
                parameter.data.zero_()
        workers.take_weights(reranker, weights)
        return history.loss, workers.weights(reranker)
    whole = workers.whole(reranker, new)
    return history.loss, whole.state_dict() if workers.rank == 0 else {}


def main() -> None:
    torch.set_num_threads(1)
    with workers_of("ddp", CPU):  # one group of processes for all cases
        for case in json.loads(os.environ["WORK"]):
            new = partial(model, case["model"], case["kind"], LORA if case["lora"] else None, case["precision"])
            extra = {}
            if case["precision"] == "fp32" and not case["lora"]:
                workers = KINDS[case["workers"]]()
                extra["bi-encoder"] = bi_encoder_gradients(case["model"], case["kind"], workers, 20)
            run(KINDS[case["workers"]], case["precision"], Path(case["folder"]), new, extra)


def run(kind, precision: str, folder: Path, new, result) -> None:
    # If a step is cut by tokens, the first process has more micro-batches than the second.
    result["step"] = step_gradients(new(), kind(), 30, precision)
    result["recomputed step"] = step_gradients(new(), kind(), 30, precision, recompute=0.5)
    workers = kind()
    if workers.may_repeat and precision == "fp32":  # the step is repeated with other micro-batches
        loss = FullOnce() if workers.rank == 0 else LOSSES["cross_entropy"]
        result["repeated step"] = step_gradients(new(), workers, 200, loss=loss)
    workers = kind()
    states = {"optimizer_states": "bfloat16"} if has_frozen(new()) and kind is Replicated else {}
    # bfloat16 magnifies rounding errors, so such a training is compared with one that has no others: one in two
    # processes with the same micro-batches, whose gradients no norm scales.
    changes = states if precision == "fp32" else {"precision": "bf16", "clip_norm": 1e9}
    result["training"] = final_weights(new(), workers, folder / "state", new, stop=3, **changes)
    if precision == "bf16":
        result["whole training"] = final_weights(new(), Replicated(), folder / "whole", new, **changes)
    sockets = psutil.Process().net_connections("inet")
    result["listening"] = workers.gather([socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN])
    if workers.rank == 0:
        torch.save(result, folder / "result.pt")


if __name__ == "__main__":
    sys.exit(main())
