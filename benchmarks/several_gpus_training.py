"""Speed and memory of training steps on several GPUs, by the way in which a training is shared out.

Ways: one card; DDP; FSDP2 as it was before (float32 gathers, a unit for each projection or layer); FSDP2 layer by
layer; weights gathered once a step; both also with gradients summed in bf16. `card_of` makes a GPU's memory smaller.
"""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from measure import kernels
from peers import training_step
from several_gpus_report import Row
from shapes import Shape
from torch import nn
from torch.distributed.fsdp import fully_shard
from typing_extensions import override

from ssmrank.models.architectures import architecture_of
from ssmrank.models.precision import Precision
from ssmrank.training.gathered import GatheredOnce
from ssmrank.training.gradients import OutOfMemory
from ssmrank.training.memory import layers_of
from ssmrank.training.parallel import Replicated, Workers
from ssmrank.training.sharded import Sharded

LENGTH = 512
RUNS, STEPS, WARMUPS = 2, 3, 3
"""Timed runs, steps per run, and warm-up steps, the first of which capture CUDA graphs; on a CPU one of each."""
CUDA_MIB = 1536
"""What CUDA's context and NCCL take of a card besides PyTorch's allocator."""


class Before(Sharded):
    """FSDP2 as ssmrank 0.1 used it."""

    @override
    def prepare(self, reranker: Any, precision: Precision = "fp32") -> None:
        backbone = reranker.backbone
        shards = architecture_of(backbone.config.model_type).shards
        for unit in [unit for layer in layers_of(backbone) for unit in shards(layer)]:
            fully_shard(unit)
        fully_shard(reranker)

    @override
    def rounds(self, own: int) -> int:
        return max(self.gather(own))

    @override
    def clip(self, reranker: Any, norm: float) -> None:
        nn.utils.clip_grad_norm_(reranker.parameters(), norm)


WAYS: dict[str, Callable[[], Workers]] = {
    "one card": Workers,
    "fsdp2, step": GatheredOnce,
    "fsdp2, before": Before,
    "fsdp2, layer": Sharded,
    "ddp": Replicated,
    "step, bf16 sums": partial(GatheredOnce, "bf16"),
    "layer, bf16 sums": partial(Sharded, "bf16"),
    "layer, small units": partial(Sharded, unit_bytes=1),
}
"""In the order of measurement."""
QUICK = ("one card", "fsdp2, step", "fsdp2, before", "fsdp2, layer", "ddp")


def measure(place: Any, shape: Shape, way: str, count: int, profiled: bool, recompute: bool = False) -> Row:
    """Steps of `count` sequences per GPU; a training of one card runs in the first process while the others wait."""
    workers = WAYS[way]()
    length = 32 if place.small else LENGTH
    tokens = count * length * workers.size
    label = f"{way}{', 24 GiB' if recompute else ''}"
    row = Row("training", shape.name, label, place.precision, f"{count} x {length}", tokens, tokens, place.name)
    row.cards = workers.size
    failed = False
    if workers.size > 1 or place.first:
        try:
            _fill_in(row, place, shape, workers, [length] * count, profiled, recompute)
        except (OutOfMemory, torch.OutOfMemoryError):
            row.seconds = None  # in all processes, because their parts are alike
        except Exception as error:
            # In all processes as well, if it is a mistake. If it is not, the others wait until time runs out.
            failed = True
            traceback.print_exc()
            place.report.check(f"training {shape.name}, {label}", False, f"process {place.workers.rank}: {error}")
    free_memory()
    place.workers.wait()
    if place.first and not failed:
        place.report.speed(row)
    return row


@contextmanager
def card_of(mib: float, device: torch.device) -> Iterator[None]:
    """Lets this process use no more of the GPU's memory than a card of this size would have."""
    if device.type == "cpu":
        yield
        return
    whole = torch.cuda.get_device_properties(device).total_memory / 2**20
    torch.cuda.set_per_process_memory_fraction((mib - CUDA_MIB) / whole, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _fill_in(
    row: Row, place: Any, shape: Shape, workers: Workers, lengths: list[int], profiled: bool, recompute: bool
) -> None:
    if not place.small:
        torch.cuda.reset_peak_memory_stats()
    step = training_step(
        shape, "ssmrank", lengths, place.precision, place.device, workers=workers, may_recompute=recompute
    )
    assert step is not None
    times = _times(step, place, workers)
    row.runs, row.seconds = len(times), round(statistics.median(times), 6)
    row.fastest, row.slowest = round(min(times), 6), round(max(times), 6)
    row.tokens_per_second = round(row.tokens / row.seconds, 1)
    if place.small:
        return
    row.peak_memory_mib = round(max(workers.gather(torch.cuda.max_memory_allocated())) / 2**20, 1)
    row.reserved_mib = round(max(workers.gather(torch.cuda.max_memory_reserved())) / 2**20, 1)
    if not profiled:
        return
    found = kernels(step)
    row.kernels = len(found)
    row.gpu_busy = round(min(1.0, sum(spent for _, spent in found) / row.seconds), 3)
    if workers.size > 1:
        sending = sum(spent for kernel, spent in found if "nccl" in kernel.lower())
        row.communication = round(min(workers.gather(sending)) / row.seconds, 4)


def _times(step: Callable[[], None], place: Any, workers: Workers) -> list[float]:
    """Seconds of a step in each run; with several processes, those of the slowest."""
    runs, steps, warmups = (1, 1, 1) if place.small else (RUNS, STEPS, WARMUPS)
    for _ in range(warmups):
        step()
    times = []
    for _ in range(runs):
        wait_for(place.device)
        workers.wait()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait_for(place.device)
        times.append(max(workers.gather((time.perf_counter() - start) / steps)))
    return times


def free_memory() -> None:
    """Returns what is no longer used to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
