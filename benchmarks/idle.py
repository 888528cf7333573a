"""When a reranking of files keeps its device waiting: before the first batch, between batches, after the last score.

    export PYTHONPATH=src
    python benchmarks/idle.py --collection data/collections/nfcorpus --model models/minis/mamba2
    python benchmarks/idle.py --collection data/collections/nfcorpus --model MODEL --score

Each query asks for `--depth` documents, drawn with seed 0. Without --score no model runs: the pairs are read, planned
and packed as for a device, and written with random scores. Prints seconds until the first batch is packed, until all
are, and from the last score to the closed run file; processor seconds of all threads; and those of planning and packing
alone, which hold Python's lock (tokenizing does not).

With --score the pairs are reranked, `--repeats` times after those of a few queries, which load kernels. On a GPU it
also prints how long the GPU was busy, by the profiler: the time that kernels and copies cover, as a share of the whole
and of the time between the first kernel and the last one. The whole begins when the checkpoint is loaded.

    python benchmarks/idle.py --collection data/collections/nfcorpus --model MODEL --stub 664000 --before REVISION

With --stub no model runs either. A stand-in for a GPU only takes time: kernels that compute so many tokens a second are
launched one by one into a queue, as a GPU's driver does it, and the scores of a batch arrive when the queue has come to
them. So everything around the kernels is that of a reranking, on a machine without a GPU. --before also runs another
git revision, or a folder that has its src, in turns.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from versions import checkout, environment

from ssmrank.config.rerankings import Reranking
from ssmrank.io.atomic import atomic_file
from ssmrank.io.collection import documents_file, queries_file
from ssmrank.io.pairs import read_pairs, with_remainder, write_pairs
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import read_run, write_run
from ssmrank.models.packing import Packed, mapped
from ssmrank.models.precision import default_device, device_name
from ssmrank.models.tokens import limit_tokenizer_threads
from ssmrank.prefetch import prefetch
from ssmrank.reranking import engine, scoring
from ssmrank.reranking.batches import Batch
from ssmrank.reranking.pipeline import FileReranking, Files, open_reranking
from ssmrank.reranking.scoring import Scorer

MOVING = 0.4
"""Seconds in which the weights of such a model, 1.5 GB, are moved to a GPU and converted."""

KERNELS = 576
"""Kernels of a batch: twelve for each of the 48 layers of a Mamba-2 of 370M parameters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--token-budget", type=int, default=131072)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--stub", type=float, metavar="TOKENS", help="a stand-in for a GPU of so many tokens a second")
    parser.add_argument("--before", metavar="REVISION", help="git revision or its folder; for --score and --stub")
    parser.add_argument("--output", type=Path, metavar="FILE", help="CSV that gets the medians of --before, by side")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.before:
        compare(arguments)
        return
    if arguments.stub:
        arguments.score = True
        use_stub(arguments.stub)
    limit_tokenizer_threads()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        made = first_stage(arguments, work / "first.trec")
        if arguments.score:
            first_queries(work / "first.trec", work / "few.trec")
        print(f"{arguments.collection.name}: {made:,} pairs, {device_name(default_device())}", flush=True)
        times = []
        for repeat in range(arguments.repeats + (1 if arguments.score else 0)):
            began = time.perf_counter()
            few = arguments.score and not repeat
            reranking = opened(arguments, work, repeat, work / ("few.trec" if few else "first.trec"))
            opening = time.perf_counter() - began
            found = {"opening": opening} | (scored if arguments.score else planned)(reranking, work)
            if not few:
                times.append(found)
                print(json.dumps({name: round(value, 3) for name, value in found.items()}), flush=True)
        print("median", json.dumps(medians(times)))


def compare(arguments: argparse.Namespace) -> None:
    """Runs this benchmark with the package of a revision and of this checkout in turns."""
    repeats, words = arguments.repeats, ["--collection", str(arguments.collection), "--model", str(arguments.model)]
    words += ["--split", arguments.split, "--depth", str(arguments.depth), "--precision", arguments.precision]
    words += ["--token-budget", str(arguments.token_budget), *(["--score"] if arguments.score else [])]
    words += ["--stub", str(arguments.stub)] if arguments.stub else []
    found: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    folder = Path(arguments.before)
    with nullcontext(folder.resolve()) if folder.is_dir() else checkout(arguments.before) as other:
        folders = {"before": other, "after": Path(__file__).parents[1]}
        for repeat in range(repeats):
            for name in sorted(folders, reverse=repeat % 2 == 0):
                ran = subprocess.run(
                    [sys.executable, __file__, *words, "--repeats", "1"],
                    check=True, env=environment(folders[name]), stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                found[name].append(json.loads(ran.stdout.splitlines()[-1].removeprefix("median ")))
                print(name, json.dumps(found[name][-1]), flush=True)
    for name, times in found.items():
        print("median", name, json.dumps(medians(times)))
    if arguments.output is not None:
        write(arguments.output, arguments.collection.name, {name: medians(times) for name, times in found.items()})


def write(output: Path, collection: str, found: dict[str, dict[str, float]]) -> None:
    """Writes a collection's medians of both sides, in place of those that the file has of it."""
    rows: list[dict[str, Any]] = []
    if output.exists():
        with output.open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["collection"] != collection]
    rows += [{"collection": collection, "side": side} | values for side, values in found.items()]
    with atomic_file(output) as stream:
        writer = csv.DictWriter(stream, list(rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def medians(times: list[dict[str, float]]) -> dict[str, float]:
    """The median of each value."""
    return {name: round(statistics.median(one[name] for one in times), 3) for name in times[0]}


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


def first_queries(path: Path, few: Path) -> None:
    """Writes a sixteenth of a run's queries."""
    run = read_run(path)
    write_run(few, dict(list(run.items())[: max(1, len(run) // 16)]), "random")


def opened(arguments: argparse.Namespace, work: Path, repeat: int, run: Path) -> FileReranking:
    settings = Reranking(
        retriever="random", depth=arguments.depth, token_budget=arguments.token_budget, precision=arguments.precision
    )
    own = work / str(repeat)  # nothing of an earlier time is found
    files = Files(
        run=run, collection=arguments.collection, split=arguments.split, state=own / "state",
        tokens=own / "tokens",
    )  # fmt: skip
    return open_reranking(files, settings, arguments.model, default_device())


def planned(reranking: FileReranking, work: Path) -> dict[str, float]:
    """Seconds of everything but scoring, one step after another."""
    reranking._parts.close()
    reranking.files = replace(reranking.files, tokens=reranking.files.tokens / "timed")
    began, used = time.perf_counter(), time.process_time()
    given = read_pairs(reranking.files.run, reranking.settings.depth)
    read = time.perf_counter()
    reranking._long_queries(given)
    checked = time.perf_counter()
    first, locked = None, 0.0
    with planning_timed() as spent:
        for part in reranking._parts_of(given):
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
    if stub is not None:
        stub.begin()
        began = time.perf_counter()
        stats = reranking.write(work / "out.trec", "random")
        return {"before": stats.before, "writing": stats.writing} | stub.found(time.perf_counter() - began)
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


class Stub:
    """A stand-in for a GPU, which computes so many tokens a second.

    The kernels of a batch are launched one by one, each by a tiny operation of torch, which lets go of Python's lock as
    a launch does. A kernel begins when it is launched, or when the one before it ends.
    """

    def __init__(self, tokens_per_second: float) -> None:
        self.tokens_per_second = tokens_per_second
        self._number = torch.zeros(1)
        self.begin()

    def begin(self) -> None:
        """Forgets what was computed."""
        self._reached = self._busy = self._launching = 0.0
        self._first: float | None = None
        self._random = np.random.default_rng(0)

    def launch(self, packed: Packed) -> Arriving:
        """Launches a batch."""
        took, began = len(packed.input_ids) / self.tokens_per_second, time.perf_counter()
        for _ in range(KERNELS):
            self._number.add_(1)
            now = time.perf_counter()
            self._first = now if self._first is None else self._first
            self._reached = max(now, self._reached) + took / KERNELS
        self._busy += took
        self._launching += time.perf_counter() - began
        return Arriving(self._random.standard_normal(len(packed.last)).astype(np.float32), self._reached)

    def found(self, seconds: float) -> dict[str, float]:
        """How long the stand-in was busy, with what it is a share of."""
        assert self._first is not None
        return {
            "launching": self._launching, "all": seconds, "busy": self._busy, "busy share of all": self._busy / seconds,
            "busy share from first to last kernel": self._busy / (self._reached - self._first),
        }  # fmt: skip


class Arriving(NamedTuple):
    """Scores that arrive at a time by `time.perf_counter`."""

    scores: np.ndarray
    at: float

    def fetched(self) -> np.ndarray:
        """Waits for the scores."""
        time.sleep(max(0.0, self.at - time.perf_counter()))
        return self.scores


stub: Stub | None = None


def use_stub(tokens_per_second: float) -> None:
    """Batches run on a stand-in for a GPU from now on, and are packed ahead and copied as for a GPU."""
    global stub
    stub = made = Stub(tokens_per_second)

    def ready(_: Scorer, batches: Iterable[tuple[int, Batch]]) -> Iterator[scoring._Ready]:
        packed = (scoring._Ready(number, batch, *batch.pack()) for number, batch in batches)
        copied = (one._replace(packed=mapped(one.packed, torch.clone)) for one in packed)
        return prefetch(copied, scoring._PREFETCHED)

    own = Scorer.__init__

    def slowly_made(scorer: Scorer, *arguments: Any, **settings: Any) -> None:
        own(scorer, *arguments, **settings)
        time.sleep(MOVING)

    Scorer.__init__ = slowly_made  # type: ignore[method-assign]
    Scorer._made_ready = ready  # type: ignore[method-assign]
    Scorer._launch = lambda _, packed: made.launch(packed)  # type: ignore[method-assign,assignment,return-value]


if __name__ == "__main__":
    main()
