"""One of the processes of several_gpus.py: the parts in which all GPUs work at the same time.

Gradients: loss and gradients of one step on several GPUs, compared with one GPU at the same global batch. Training:
whole steps (forward, backward, clipping, AdamW). Small card: steps within 24 GiB. Reranking: the engine's scoring,
without planning and start-up.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import contenders
import numpy as np
import several_gpus_gradients
import several_gpus_training
import torch
from measure import device_name
from several_gpus_report import Report, Row
from several_gpus_training import LENGTH, free_memory, wait_for
from shapes import CLASSES, Shape
from workloads import Workload, read_workload

from ssmrank.io.pairs import Pairs
from ssmrank.models.precision import Precision
from ssmrank.models.reranker import Reranker
from ssmrank.reranking.batches import plan_batches
from ssmrank.reranking.engine import Work, score
from ssmrank.training.parallel import Workers
from ssmrank.training.processes import workers_of


@dataclass
class Place:
    """What a process works with; `workers` are all processes."""

    device: torch.device
    workers: Workers
    report: Report
    end: float

    def has_time(self) -> bool:
        """Whether there is time for another measurement, the same in all processes."""
        enough = self.workers.first_decides(time.time() < self.end)
        if not enough and self.first:
            print("  no time is left for the rest", flush=True)
        return enough

    @property
    def name(self) -> str:
        return device_name(self.device)

    @property
    def first(self) -> bool:
        return self.workers.rank == 0

    @property
    def small(self) -> bool:
        """Models and batches for a CPU, which only shows that everything runs."""
        return self.device.type == "cpu"

    @property
    def precision(self) -> Precision:
        return "fp32" if self.small else "bf16"

    def shape(self, name: str) -> Shape:
        return next(shape for shapes in CLASSES.values() for shape in shapes if shape.name == name)


def gradients(place: Place, arguments: argparse.Namespace) -> None:
    for name in arguments.models:
        several_gpus_gradients.check(
            place.shape(name), place.device, place.workers, place.report if place.first else None
        )
        free_memory()


def training(place: Place, arguments: argparse.Namespace) -> None:
    ways = arguments.ways or (several_gpus_training.QUICK if arguments.quick else list(several_gpus_training.WAYS))
    small, large = (2, None) if place.small else (16, None if arguments.quick else 64)
    # What matters most comes first, because time may run out.
    wanted = [(name, way, small) for way in ways for name in (*arguments.models, *arguments.large)]
    if large is not None:
        wanted += [(name, way, large) for way in ways for name in arguments.models]
        strong = max(1, large // place.workers.size)
        wanted += [(name, "ddp", strong) for name in arguments.models if "ddp" in ways]
    for name, way, count in wanted:
        if not place.has_time():
            return
        several_gpus_training.measure(place, place.shape(name), way, count, profiled=not arguments.quick)


def small_card(place: Place, arguments: argparse.Namespace) -> None:
    """Trains the large models on cards of which only 24 GiB may be used, as the paper's did not."""
    for name in arguments.large or arguments.models[:1]:
        for way in ("fsdp2, step", "fsdp2, layer"):
            if not place.has_time():
                return
            with several_gpus_training.card_of(24 * 1024, place.device):
                count = 2 if place.small else 8
                row = several_gpus_training.measure(place, place.shape(name), way, count, False, recompute=True)
            if place.first:
                used = "" if place.small else f"; PyTorch held {row.reserved_mib or 0:,.0f} MiB at most"
                place.report.check(
                    f"{name}, {row.batch}, within 24 GiB, {way}", row.seconds is not None, f"trains{used}"
                )


def reranking(place: Place, arguments: argparse.Namespace) -> None:
    for name in arguments.models:
        with place.device:
            reranker = contenders.Ours(place.shape(name), LENGTH, place.precision, place.device).reranker
        for share, copies in ((True, 1), (False, 1)) if place.small else ((True, 200), (False, 10)):
            _measure_reranking(place, name, reranker, share, copies)
        del reranker
        free_memory()


def _measure_reranking(place: Place, name: str, reranker: Reranker, share: bool, copies: int) -> None:
    """NFCorpus' lengths and sharing, several times over; the scores of all GPUs are compared with one GPU's."""
    workload = read_workload("nfcorpus")
    documents, asked = (
        (workload.documents[:1], workload.asked[:1]) if place.small else (workload.documents, workload.asked)
    )
    workload = Workload("nfcorpus", "", documents * copies, workload.queries, asked * copies)
    sequences = workload.sequences("document-first", place.shape(name).config["vocab_size"], LENGTH)
    batches = plan_batches(sequences, 512 if place.small else 32768, share)
    work = Work(Pairs.of(workload.pairs), sequences, np.arange(len(sequences)), batches)
    workers = place.workers

    def run(process: int, processes: int) -> tuple[np.ndarray, float]:
        wait_for(place.device)
        start = time.perf_counter()
        scores = score(reranker, work, place.precision, place.device, None, process, processes)
        return scores, time.perf_counter() - start

    run(workers.rank, workers.size)  # compiles kernels and fills the allocator
    workers.wait()
    share_of_scores, seconds = run(workers.rank, workers.size)
    together = max(workers.gather(seconds))
    parts = workers.gather(share_of_scores)
    if place.first:
        run(0, 1)
        scores, alone = run(0, 1)
        merged = parts[0]
        for part in parts[1:]:
            merged = np.where(np.isnan(merged), part, merged)
        label = "reuse" if share else "no reuse"
        place.report.check(
            f"reranking {name}, {label}",
            merged.tobytes() == scores.tobytes() and bool(np.isfinite(scores).all()),
            f"{len(scores):,} scores of {workers.size} cards are one card's, bit by bit; {len(batches)} batches",
        )
        for cards, spent in ((1, alone), (workers.size, together)):
            row = Row(
                *("reranking", name, label, place.precision, f"{len(scores)} pairs", int(sequences.lengths.sum())),
                *(work.tokens, device_name(place.device)),
                runs=1,
                seconds=round(spent, 6),
                cards=cards,
                pairs=len(scores),
                pairs_per_second=round(len(scores) / spent, 1),
            )
            place.report.speed(row)
    workers.wait()


PARTS: dict[str, Callable[[Place, argparse.Namespace], None]] = {
    "gradients": gradients,
    "reranking": reranking,
    "training": training,
    "small-card": small_card,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", required=True)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--large", nargs="*", default=[])
    parser.add_argument("--ways", nargs="*", default=[])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--end", type=float, required=True, help="time after which no measurement begins")
    parser.add_argument("--device", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    gc.freeze()  # `free_memory` would search all that was imported, after each measurement
    started = time.perf_counter()
    with workers_of("ddp", device) as workers:
        place = Place(device, workers, Report(arguments.folder, arguments.output), arguments.end)
        for part in arguments.parts:
            if place.first:
                print(f"{part} ({time.perf_counter() - started:.0f} s)", flush=True)
            try:
                PARTS[part](place, arguments)
            except Exception:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)  # a normal exit may wait for the others, which wait for this process
            workers.wait()
            if place.first:
                place.report.done(part)


if __name__ == "__main__":
    main()
