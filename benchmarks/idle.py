"""When a reranking of files keeps its device waiting: before the first batch, between batches, after the last score.

    export PYTHONPATH=src
    python benchmarks/idle.py --collection data/collections/nfcorpus --model models/minis/mamba2
    python benchmarks/idle.py --collection data/collections/nfcorpus --model MODEL --score

Each query asks for `--depth` documents, drawn with seed 0. Without --score no model runs: the pairs are read, planned
and packed as for a device, and written with random scores. Prints seconds until the first batch is packed, until all
are, and from the last score to the closed run file; processor seconds of all threads; and those of planning and packing
alone, which hold Python's lock (tokenizing does not).

With --score the pairs are reranked, `--repeats` times after a first time that loads kernels. On a GPU it also prints
how long the GPU was busy, by the profiler: the time that kernels and copies cover, as a share of the whole and of the
time between the first kernel and the last one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssmrank.config.rerankings import Reranking
from ssmrank.io.collection import documents_file, queries_file
from ssmrank.io.pairs import read_pairs, with_remainder, write_pairs
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import write_run
from ssmrank.models.precision import default_device, device_name
from ssmrank.models.tokens import limit_tokenizer_threads
from ssmrank.reranking import engine
from ssmrank.reranking.batches import Batch
from ssmrank.reranking.pipeline import FileReranking, Files, open_reranking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--token-budget", type=int, default=131072)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    limit_tokenizer_threads()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        made = first_stage(arguments, work / "first.trec")
        print(f"{arguments.collection.name}: {made:,} pairs, {device_name(default_device())}", flush=True)
        times = []
        for repeat in range(arguments.repeats + (1 if arguments.score else 0)):
            reranking = opened(arguments, work, repeat)
            found = scored(reranking, work) if arguments.score else planned(reranking, work)
            if repeat or not arguments.score:
                times.append(found)
                print(json.dumps({name: round(value, 3) for name, value in found.items()}), flush=True)
        medians = {name: round(statistics.median(one[name] for one in times), 3) for name in times[0]}
        print("median", json.dumps(medians))


def first_stage(arguments: argparse.Namespace, path: Path) -> int:
    """Writes a run in which each query asks for documents drawn at random, and returns its number of pairs."""
    random = np.random.default_rng(0)
    documents = list(TextStore(documents_file(arguments.collection)).ids())
    queries = read_queries(queries_file(arguments.collection, arguments.split))
    depth = min(arguments.depth, len(documents))
    drawn = {query: random.permutation(len(documents))[:depth].tolist() for query in queries}
    run = {
        query: [(documents[place], float(-rank)) for rank, place in enumerate(places)]
        for query, places in drawn.items()
    }
    write_run(path, run, "random")
    return len(run) * depth


def opened(arguments: argparse.Namespace, work: Path, repeat: int) -> FileReranking:
    settings = Reranking(
        retriever="random", depth=arguments.depth, token_budget=arguments.token_budget, precision=arguments.precision
    )
    own = work / str(repeat)  # nothing of an earlier time is found
    files = Files(
        run=work / "first.trec", collection=arguments.collection, split=arguments.split, state=own / "state",
        tokens=own / "tokens",
    )  # fmt: skip
    return open_reranking(files, settings, arguments.model, default_device())


def planned(reranking: FileReranking, work: Path) -> dict[str, float]:
    """Seconds of everything but scoring."""
    began, used = time.perf_counter(), time.process_time()
    given = read_pairs(reranking.files.run, reranking.settings.depth)
    read = time.perf_counter()
    reranking._long_queries(given)
    checked = time.perf_counter()
    first, locked = None, 0.0
    with planning_timed() as spent:
        for part in reranking._parts(given):
            for batch in part.work.batches:
                before = time.thread_time()
                batch.pack()
                locked += time.thread_time() - before
                first = first or time.perf_counter()
    locked += sum(spent)
    packed, processor = time.perf_counter(), time.process_time() - used
    scores = np.random.default_rng(0).standard_normal(len(given)).astype(np.float32)
    last = time.perf_counter()
    write_pairs(work / "out.trec", given, with_remainder(given, np.ones(len(given), dtype=bool), scores), "random")
    assert first is not None
    return {
        "run read": read - began,
        "queries checked": checked - read,
        "first batch": first - began,
        "all batches": packed - began,
        "processor": processor,
        "planning and packing": locked,
        "last score to run file": time.perf_counter() - last,
    }


@contextmanager
def planning_timed() -> Iterator[list[float]]:
    """Yields the processor seconds of each call of `plan_batches`."""
    spent: list[float] = []
    plan = engine.plan_batches

    def timed(*arguments: Any) -> list[Batch]:
        began = time.thread_time()
        try:
            return plan(*arguments)
        finally:
            spent.append(time.thread_time() - began)

    engine.plan_batches = timed
    try:
        yield spent
    finally:
        engine.plan_batches = plan


def scored(reranking: FileReranking, work: Path) -> dict[str, float]:
    """Seconds of a reranking, and on a GPU how long it was busy."""
    if reranking.device.type != "cuda":
        began = time.perf_counter()
        stats = reranking.write(work / "out.trec", "random")
        return {
            "all": time.perf_counter() - began, "before": stats.before, "scoring": stats.scoring,
            "writing": stats.writing,
        }  # fmt: skip
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        stats = reranking.write(work / "out.trec", "random")
        seconds = time.perf_counter() - began
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy = covered(spans) / 1e6
    between = (max(end for _, end in spans) - spans[0][0]) / 1e6
    return {
        "all": seconds, "before": stats.before, "scoring": stats.scoring, "writing": stats.writing, "busy": busy,
        "busy share of all": busy / seconds, "busy share from first to last kernel": busy / between,
    }  # fmt: skip


def covered(spans: list[tuple[float, float]]) -> float:
    """How much of the time line the spans cover."""
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


if __name__ == "__main__":
    main()
