"""From texts to a run file: every stage of `ssmrank rerank` except starting Python and loading the model.

As in a reranking, the run is read while the model is loaded, and that time is not counted.

The collection consists of words that the tokenizer of models/minis knows, with the real lengths and the real sharing of
a workload; the model has random weights. One row is the whole, with the share of its time in which the GPU runs a
kernel: kernels' times from a profiled pass over the seconds of a pass without the profiler. The other rows are its
three stages: until the first batch is handed to the device; from then to the last score, while most texts are tokenized
and most batches planned; and from there to the run file. They add up to the whole.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from measure import PairsRow, device_name, first_line, kernels
from shapes import Shape
from workloads import Workload, fewer_documents, read_workload

from ssmrank.config.rerankings import Reranking
from ssmrank.io.texts import StoreWriter
from ssmrank.io.trec import Run, write_run
from ssmrank.models.reranker import Reranker, RerankerSettings, load_tokenizer
from ssmrank.models.templates import Template
from ssmrank.reranking.pipeline import Files, RerankingStats, open_reranking

DEPTH = 1000
TOKENIZER = Path(__file__).parents[1] / "models/minis/mamba2"


def endtoend(arguments: argparse.Namespace, shapes: Sequence[Shape]) -> Iterator[list[PairsRow]]:
    """Each decoder on each workload, with document reuse."""
    for shape in (shape for shape in shapes if not shape.pools_first):
        for name in arguments.workloads:
            workload = fewer_documents(read_workload(name), arguments.documents or 10**9)
            print(f"endtoend, {name}, {shape.name}: {workload.note}", flush=True)
            try:
                with tempfile.TemporaryDirectory() as folder:
                    yield _Task(Path(folder), workload, shape, arguments).measured()
            except Exception as error:  # the other models' rows are worth having
                print(f"  left out ({first_line(error)})", flush=True)


class _Task:
    """A collection, a first-stage run and a reranker with random weights."""

    def __init__(self, folder: Path, workload: Workload, shape: Shape, arguments: argparse.Namespace) -> None:
        self.folder, self.workload, self.shape, self.arguments = folder, workload, shape, arguments
        self.device = torch.device(arguments.device)
        tokenizer = load_tokenizer(TOKENIZER)
        with torch.device(self.device):
            settings = RerankerSettings("D", arguments.max_length)
            reranker = Reranker(shape.ours(), tokenizer, settings).eval()
        reranker.save(folder / "checkpoint")
        self.run = _make_collection(folder, workload, reranker.template)
        self.stats = RerankingStats()

    def measured(self) -> list[PairsRow]:
        """The rows of the whole and of its stages: medians over the runs."""
        whole, few = self.folder / "run.trec", self.folder / "few.trec"
        write_run(few, dict(list(self.run.items())[: max(1, len(self.run) // 16)]), "few")
        write_run(whole, self.run, "first")
        self.ranked(few)  # kernels are compiled, files are in memory
        passes = [self.ranked(whole) for _ in range(self.arguments.runs)]
        found = kernels(lambda: self.ranked(whole)) if self.device.type == "cuda" else []
        rows = [self._row("text to run file", [each.before + each.scoring + each.writing for each in passes])]
        seconds = rows[0].seconds
        assert seconds is not None
        if found:
            rows[0].kernels, rows[0].gpu_busy = len(found), round(sum(spent for _, spent in found) / seconds, 3)
        rows.append(self._row("before the first batch", [each.before for each in passes]))
        rows.append(self._row("scoring until the last score", [each.scoring for each in passes]))
        rows.append(self._row("writing the run", [each.writing for each in passes]))
        for row in rows:
            share = "" if row.gpu_busy is None else f", GPU busy {row.gpu_busy:.0%}"
            print(f"  {row.implementation}: {row.seconds:.3f} s{share}", flush=True)
        return rows

    def ranked(self, path: Path) -> RerankingStats:
        """Reranks a first-stage run as `ssmrank rerank` does, with no text tokenized in advance."""
        tokens = self.folder / "tokens"
        shutil.rmtree(tokens, ignore_errors=True)
        files = Files(path, self.folder / "collection", "test", self.folder / "state", tokens)
        settings = Reranking(
            retriever="none",
            depth=DEPTH,
            token_budget=self.arguments.token_budget,
            precision=self.arguments.precision,
        )
        reranking = open_reranking(files, settings, self.folder / "checkpoint", self.device)
        self.stats = reranking.write(self.folder / "reranked.trec", "benchmark")
        return self.stats

    def _row(self, stage: str, seconds: list[float]) -> PairsRow:
        pairs, median = sum(map(len, self.run.values())), statistics.median(seconds)
        return PairsRow(
            *(f"endtoend {self.workload.name}", self.shape.name, f"ssmrank, {stage}", self.arguments.precision),
            *(f"{pairs} pairs", self.stats.all_tokens, self.stats.tokens, device_name(self.device)),
            runs=len(seconds),
            seconds=round(median, 6),
            fastest=round(min(seconds), 6),
            slowest=round(max(seconds), 6),
            tokens_per_second=round(self.stats.all_tokens / median, 1),
            pairs=pairs,
            max_length=self.arguments.max_length,
            pairs_per_second=round(pairs / median, 3),
        )


def _make_collection(folder: Path, workload: Workload, template: Template) -> Run:
    """Writes the collection of a workload; returns the first-stage run of its pairs."""
    words = [token[1:] for token in template.tokenizer.get_vocab() if re.fullmatch("Ġ[a-z]{3,}", token)]
    random = np.random.default_rng(0)
    [document], [query] = template.tokenize_documents([""]), template.tokenize_queries([""])

    def text(tokens: int) -> str:
        return " ".join(random.choice(words, max(1, tokens)).tolist())

    collection = folder / "collection"
    (collection / "splits/test").mkdir(parents=True)
    with StoreWriter(collection / "documents.jsonl") as writer:
        for number, length in enumerate(workload.documents):
            writer.add(f"d{number}", text(length - len(document)))
    with (collection / "splits/test/queries.jsonl").open("w") as stream:
        for number, length in enumerate(workload.queries):
            stream.write(json.dumps({"id": f"q{number}", "text": text(length - len(query))}) + "\n")
    run: Run = {}
    for number, asked in enumerate(workload.asked):
        for asking in asked:
            run.setdefault(f"q{asking}", []).append((f"d{number}", float(random.random())))
    return {query: sorted(ranking, key=lambda pair: -pair[1]) for query, ranking in run.items()}
