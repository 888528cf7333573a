"""How long the paper's grid takes on some number of GPUs, from the hours that `ssmrank plan --hours` adds up.

    python benchmarks/grid_hours.py [--output benchmarks/results/grid-hours.csv]

Run it in the repository's folder; nothing is computed. Each job has one GPU. Documents are encoded before anything is
trained, and a reranker is trained before it reranks. A free GPU takes the longest job that may start. Jobs without a
GPU, downloads and starts of processes count as nothing, so the hours are the least that can be expected.
"""

from __future__ import annotations

import argparse
import csv
import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ssmrank.config.params import read_params
from ssmrank.planning.dag import PlannedJob, planned_jobs
from ssmrank.planning.estimate import Estimator
from ssmrank.planning.speeds import Speeds

OVERLAYS = ("params/paper-models.yaml", "params/paper.yaml")
GPUS = (1, 2, 4, 8, 16, 32, 64)
COLUMNS = ("gpus", "hours", "gpu_hours", "busy", "longest_job", "longest_hours")


def needed(job: PlannedJob, jobs: Sequence[PlannedJob]) -> list[PlannedJob]:
    """The jobs with a GPU that must have ended before this one starts."""
    if job.rule == "train":
        return [one for one in jobs if one.rule == "encode"]
    if job.rule == "rerank":
        names = ("training", "model")
        wanted = [job.wildcards[name] for name in names]
        return [one for one in jobs if one.rule == "train" and [one.wildcards[name] for name in names] == wanted]
    return []


def wall_seconds(seconds: Mapping[int, float], before: Mapping[int, Sequence[int]], gpus: int) -> float:
    """The time until all jobs have ended; `before` has the jobs that each one waits for."""
    now, ended, running = 0.0, set[int](), list[tuple[float, int]]()
    waiting = sorted(seconds, key=lambda job: -seconds[job])
    while waiting or running:
        for job in [job for job in waiting if ended.issuperset(before[job])][: gpus - len(running)]:
            waiting.remove(job)
            heapq.heappush(running, (now + seconds[job], job))
        now, job = heapq.heappop(running)
        ended.add(job)
    return now


def rows(jobs: Sequence[PlannedJob], estimator: Estimator) -> Iterator[dict[str, str]]:
    """One for each number of GPUs."""
    estimates = {number: estimator.estimate(job).gpu_seconds for number, job in enumerate(jobs)}
    seconds = {number: value for number, value in estimates.items() if value}
    on_gpu = [jobs[number] for number in seconds]
    numbers = {job: number for number, job in zip(seconds, map(_key, on_gpu), strict=True)}
    before = {number: [numbers[_key(one)] for one in needed(jobs[number], on_gpu)] for number in seconds}
    longest = max(seconds, key=lambda number: seconds[number])
    model = estimator.params.models[jobs[longest].wildcards["model"]].label
    for gpus in GPUS:
        wall, used = wall_seconds(seconds, before, gpus), sum(seconds.values())
        yield {
            "gpus": str(gpus),
            "hours": f"{wall / 3600:.1f}",
            "gpu_hours": f"{used / 3600:.1f}",
            "busy": f"{used / wall / gpus:.2f}",
            "longest_job": f"{jobs[longest].rule} {jobs[longest].wildcards['training']} {model}",
            "longest_hours": f"{seconds[longest] / 3600:.1f}",
        }


def _key(job: PlannedJob) -> tuple[str, ...]:
    return (job.rule, *sorted(job.wildcards.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/grid-hours.csv"))
    arguments = parser.parse_args()
    speeds, workloads = Speeds(Path("benchmarks/results")), Path("benchmarks/workloads")
    estimator = Estimator(read_params("params.yaml", *OVERLAYS), speeds, workloads)
    jobs = planned_jobs(OVERLAYS, [])
    with arguments.output.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows(jobs, estimator))


if __name__ == "__main__":
    main()
