"""One of the processes of several_gpus.py: the parts in which all GPUs work at the same time.

Gradients: loss and gradients of one step on two GPUs, compared with one GPU at the same global batch. Training: whole
steps (forward, backward, clipping, AdamW). Reranking: the engine's scoring, without planning and start-up.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import contenders
import numpy as np
import several_gpus_gradients
import torch
from measure import device_name, kernels
from peers import training_step
from several_gpus_report import Report, Row
from shapes import CLASSES, Shape
from workloads import Workload, read_workload

from ssmrank.io.pairs import Pairs
from ssmrank.models.precision import Precision
from ssmrank.models.reranker import Reranker
from ssmrank.reranking.batches import plan_batches
from ssmrank.reranking.engine import Work, score
from ssmrank.training.gradients import OutOfMemory
from ssmrank.training.parallel import Replicated, Sharded, Workers, workers_of

LENGTH = 512
RUNS, STEPS, WARMUPS = 2, 3, 3
"""Timed runs, steps per run, and warm-up steps, the first of which capture CUDA graphs."""


@dataclass
class Place:
    """What a process works with; `workers` are all processes."""

    device: torch.device
    workers: Workers
    report: Report

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
    for name in arguments.models:
        counts = [2] if place.small else [16, 64]
        for count in counts:
            _measure_training(place, name, Workers(), count)
            _measure_training(place, name, Replicated(), count)
        if len(counts) > 1:
            _measure_training(place, name, Replicated(), counts[-1] // place.workers.size)
        _measure_training(place, name, Sharded(), counts[-1])
    for name in arguments.large:
        for workers in (Workers(), Replicated(), Sharded()):
            _measure_training(place, name, workers, 2 if place.small else 16)


def _measure_training(place: Place, name: str, workers: Workers, count: int) -> None:
    """Steps of `count` sequences per GPU; a training of one worker runs in the first process while the others wait."""
    length = 32 if place.small else LENGTH
    label = {Workers: "one process", Replicated: "ddp", Sharded: "fsdp2"}[type(workers)]
    tokens = count * length * workers.size
    row = Row("training", name, label, place.precision, f"{count} x {length}", tokens, tokens, "", cards=workers.size)
    row.device = device_name(place.device)
    if workers.size > 1 or place.first:
        try:
            _fill_in(row, place, workers, [length] * count)
        except (OutOfMemory, torch.OutOfMemoryError):
            row.seconds = None  # in all processes, because their parts are alike
    free_memory()
    place.workers.wait()
    if place.first:
        place.report.speed(row)


def _fill_in(row: Row, place: Place, workers: Workers, lengths: list[int]) -> None:
    step = training_step(place.shape(row.model), "ssmrank", lengths, place.precision, place.device, workers=workers)
    assert step is not None
    times = _times(step, place, workers)
    row.runs, row.seconds = len(times), round(statistics.median(times), 6)
    row.fastest, row.slowest = round(min(times), 6), round(max(times), 6)
    row.tokens_per_second = round(row.tokens / row.seconds, 1)
    if place.small:
        return
    row.peak_memory_mib = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    found = kernels(step)
    row.kernels = len(found)
    row.gpu_busy = round(min(1.0, sum(spent for _, spent in found) / row.seconds), 3)
    if workers.size > 1:
        sending = sum(spent for kernel, spent in found if "nccl" in kernel.lower())
        row.communication = round(min(workers.gather(sending)) / row.seconds, 4)


def _times(step: Callable[[], None], place: Place, workers: Workers) -> list[float]:
    """Seconds of a step in each run; with several processes, those of the slowest."""
    if not place.small:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARMUPS):
        step()
    times = []
    for _ in range(RUNS):
        _wait_for_device(place.device)
        workers.wait()
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        _wait_for_device(place.device)
        times.append(max(workers.gather((time.perf_counter() - start) / STEPS)))
    return times


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
        _wait_for_device(place.device)
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


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _wait_for_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


PARTS: dict[str, Callable[[Place, argparse.Namespace], None]] = {
    "gradients": gradients,
    "reranking": reranking,
    "training": training,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", required=True)
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--large", nargs="*", default=[])
    parser.add_argument("--device", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    started = time.perf_counter()
    with workers_of("ddp", device) as workers:
        place = Place(device, workers, Report(arguments.folder, arguments.output))
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
