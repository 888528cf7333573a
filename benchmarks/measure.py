"""Times of contenders. They take turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import csv
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from ssmrank.io.atomic import atomic_file


@dataclass
class Measurement:
    """One row of a benchmark's CSV."""

    benchmark: str
    model: str
    implementation: str
    precision: str
    batch: str
    tokens: int
    """Real tokens of a pass, without padding."""
    computed: int
    """Tokens of a pass with padding."""
    device: str
    runs: int = 0
    seconds: float | None = None
    """Median of the runs; None if memory ran out."""
    fastest: float | None = None
    slowest: float | None = None
    tokens_per_second: float | None = None
    peak_memory_mib: float | None = None
    gpu_busy: float | None = None
    """Share of the time in which the GPU runs a kernel."""
    kernels: int | None = None
    """Number of kernels in a pass."""


@dataclass
class PairsRow(Measurement):
    """A row of a reranking; `tokens` counts all sequences, `computed` what is run, including padding."""

    pairs: int = 0
    max_length: int = 0
    pairs_per_second: float | None = None


Contender = tuple[Measurement, Callable[[], None], int]
"""The row to fill in, a function that runs one pass, and the number of runs."""


def measure(contenders: Sequence[Contender], device: torch.device, warmups: int = 1) -> list[Measurement]:
    """Runs the contenders in turn and fills in their medians.

    A contender that runs out of memory keeps empty times. One that fails otherwise is left out, and a line says why.
    """
    times: dict[int, list[float]] = {place: [] for place in range(len(contenders))}
    failed: set[int] = set()
    broken: set[int] = set()
    # On a CPU there is time for only one run of a slow contender; nothing is compiled or tuned at first.
    cold = device.type == "cpu"
    rounds = warmups + max(runs for *_, runs in contenders)
    for turn in range(rounds):
        for place, (row, step, runs) in enumerate(contenders):
            if place in failed or turn >= warmups + runs or (cold and runs == 1 and turn < warmups):
                continue
            try:
                seconds, memory = _time(step, device)
            except torch.OutOfMemoryError:
                failed.add(place)
                gc.collect()
                torch.cuda.empty_cache()
                continue
            except Exception as error:  # of another library: the others' rows are worth having
                print(f"  {row.model} {row.implementation}: left out ({first_line(error)})", flush=True)
                failed.add(place)
                broken.add(place)
                continue
            row.peak_memory_mib = memory
            if turn >= warmups or (cold and runs == 1):
                times[place].append(seconds)
            print(f"  {row.benchmark} {row.model} {row.implementation} {row.batch}: {seconds:.4f} s", flush=True)
    for place, (row, _, _) in enumerate(contenders):
        if times[place] and place not in failed:
            row.runs = len(times[place])
            row.seconds = round(statistics.median(times[place]), 6)
            row.fastest, row.slowest = round(min(times[place]), 6), round(max(times[place]), 6)
            row.tokens_per_second = round(row.tokens / row.seconds, 1)
    return [row for place, (row, _, _) in enumerate(contenders) if place not in broken]


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def measure_alone(
    row: Measurement, make: Callable[[], Callable[[], None] | None], runs: int, steps: int = 2, warmups: int = 3
) -> Measurement | None:
    """Fills in the medians of a contender that has the GPU to itself, so that the peak memory is its own.

    make: returns one pass, or None if there is no such contender. A run is `steps` passes without a wait between them,
    as in a training. If a contender runs out of memory, its times stay empty.
    """
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        step = make()
        if step is None:
            return None
        times, busy = _alone(row, step, runs, steps, warmups)
        # The peak since the beginning, because a CUDA graph's memory is allocated only once.
        row.peak_memory_mib = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    except torch.OutOfMemoryError:
        return row
    row.runs = runs
    row.seconds = round(statistics.median(times), 6)
    row.fastest, row.slowest = round(min(times), 6), round(max(times), 6)
    row.tokens_per_second = round(row.tokens / row.seconds, 1)
    row.gpu_busy = round(min(1.0, busy / row.seconds), 3)
    print(
        f"  {row.model} {row.implementation} {row.batch}: {row.tokens_per_second:,.0f} tokens/s, "
        f"{row.kernels} kernels, busy {row.gpu_busy:.0%}, {row.peak_memory_mib or 0:,.0f} MiB",
        flush=True,
    )
    return row


def _alone(
    row: Measurement, step: Callable[[], None], runs: int, steps: int, warmups: int
) -> tuple[list[float], float]:
    """Seconds of a pass in each run, and the seconds in which the GPU was busy during one pass."""

    def several() -> None:
        for _ in range(steps):
            step()

    for _ in range(warmups):
        step()
    times = []
    for _ in range(runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        several()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / steps)
    found = kernels(step)
    row.kernels = len(found)
    return times, sum(spent for _, spent in found)


def kernels(step: Callable[[], None]) -> list[tuple[str, float]]:
    """Names of a pass' kernels and copies, and the seconds that each takes."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    return [
        (event.name, event.device_time / 1e6)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]


def _time(step: Callable[[], None], device: torch.device) -> tuple[float, float | None]:
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    step()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, round(torch.cuda.max_memory_allocated() / 2**20, 1) if cuda else None


def write_csv(path: Path, rows: Sequence[Measurement]) -> None:
    """Writes the measurements, one per line."""
    with atomic_file(path) as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if value is None else value for key, value in asdict(row).items()})


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {torch.get_num_threads()} threads"
    return f"CPU, {torch.get_num_threads()} threads"
