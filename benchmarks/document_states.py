"""What kept states of documents gain: pairs per second of CPU time, by the share of documents that were seen before.

    python benchmarks/document_states.py --output benchmarks/results/document-states-cpu.csv

A request is a query of three words and 100 documents of 172 tokens, so that a pair has 182. Each row is the
median of several requests, in seconds of CPU time of one thread, which other processes on the machine change little.
Without states each document is computed, as `Reranker.score` does. From disk, no document is in memory and all are
loaded, from the page cache. The last columns compare the scores with those without states: the largest difference, and
the standard deviation of the scores.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ssmrank.api import Reranker
from ssmrank.io.texts import TextStore
from ssmrank.reranking.document_states import StateScorer, state_scorer
from ssmrank.reranking.state_folder import StateFolder, checkpoint_digest
from ssmrank.reranking.state_preparation import StatePreparation

ROOT = Path(__file__).resolve().parents[1]
MODELS = {
    "Mamba-2-mini": ("models/minis/mamba2", ("bf16", "fp32")),
    "Llama-mini": ("models/minis/llama", ("bf16", "fp32")),
    "Mamba-1-mini": ("models/minis/mamba1", ("bf16",)),
    "Mamba-2-small": ("models/small/mamba2", ("bf16",)),
}
DOCUMENTS, TOKENS = 100, 172
REPEATED = {0.0: 1, 0.5: 3, 0.95: 7, 1.0: 9}
"""Shares of documents that were seen before, and how many requests of each are timed."""

FIELDS = ["model", "precision", "setting", "repeated", "pairs_per_cpu_second", "state_bytes", "difference", "spread"]


class Requests:
    """Requests of documents of equal length, some of which are asked for again and again."""

    def __init__(self, reranker: Reranker) -> None:
        self._random, self._template = random.Random(0), reranker.model.template
        self._words = [word for word in (ROOT / "README.md").read_text().split() if word.isalpha()]
        self.known = [self.document() for _ in range(150)]

    def document(self) -> str:
        """A new document, of words of README.md, of at most so many tokens."""
        words = self._random.choices(self._words, k=TOKENS)
        low, high = 1, len(words)
        while low < high:
            middle = (low + high + 1) // 2
            [side] = self._template.tokenize_documents([" ".join(words[:middle])])
            low, high = (middle, high) if len(side) <= TOKENS else (low, middle - 1)
        return " ".join(words[:low])

    def request(self, repeated: float) -> tuple[str, list[str]]:
        """A query, and documents of which a share is known."""
        count = round(DOCUMENTS * repeated)
        documents = self._random.sample(self.known, count)
        query = " ".join(self._random.choices(self._words, k=3))
        return query, documents + [self.document() for _ in range(DOCUMENTS - count)]


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def pairs_per_second(
    requests: Requests, repeated: float, score: Callable[[str, list[str]], object], times: int
) -> float:
    """The median over requests."""
    rates = []
    for query, documents in [requests.request(repeated) for _ in range(times)]:
        began = cpu_seconds()
        score(query, documents)
        rates.append(DOCUMENTS / (cpu_seconds() - began))
    return statistics.median(rates)


def asked(scorer: StateScorer) -> Callable[[str, list[str]], list[float]]:
    def score(query: str, documents: list[str]) -> list[float]:
        return [pair.score for pair in scorer.score([(query, text) for text in documents])]

    return score


def asked_afresh(scorer: StateScorer, query: str, documents: list[str]) -> list[float]:
    """Scores without any state in memory."""
    scorer._states.cache.clear()
    return asked(scorer)(query, documents)


def measure(model: str, folder: Path, precision: str) -> list[dict[str, object]]:
    reranker = Reranker.from_pretrained(folder, device="cpu", precision=precision)
    requests, scorer = Requests(reranker), reranker._scorer
    query, documents = requests.request(1.0)
    expected = np.array(reranker.score(query, documents))
    rows: list[dict[str, object]] = []

    def add(setting: str, repeated: float, rate: float, keeping: StateScorer | None, scores: list[float]) -> None:
        stats = None if keeping is None else keeping.stats()
        row = [model, precision, setting, f"{repeated:.0%}", f"{rate:.1f}"]
        row.append("" if stats is None else str(stats.bytes // stats.states))
        difference = float(np.abs(np.array(scores) - expected).max())
        rows.append(dict(zip(FIELDS, [*row, f"{difference:.1e}", f"{expected.std():.2f}"], strict=True)))
        print(rows[-1], flush=True)

    # Before and after the others, because what else runs on the machine changes CPU time too.
    plain = [pairs_per_second(requests, 1.0, reranker.score, 1) for _ in range(3)]
    keeping = state_scorer(scorer, folder, 16384, 2 * 10**9)  # all documents fit
    for repeated, times in REPEATED.items():
        keeping.score([("a", text) for text in requests.known])
        rate = pairs_per_second(requests, repeated, asked(keeping), times)
        add("states in memory", repeated, rate, keeping, asked(keeping)(query, documents))
    del keeping
    for name, dtype in (("states on disk", None), ("bf16 states on disk", torch.bfloat16)):
        with tempfile.TemporaryDirectory() as place:
            file, states = Path(place, "documents.jsonl"), Path(place, "states")
            lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(requests.known)]
            file.write_text("\n".join(lines) + "\n")
            disk = StateFolder(states, checkpoint_digest(folder), precision)
            StatePreparation(scorer, disk, 16384, 16, dtype).run(TextStore(file))
            # Room for one state, so that each document of a request is loaded.
            size = disk.size(disk.keys()[0])
            loading = state_scorer(scorer, folder, 16384, 120 * 2 * size, states, loading="always")

            fresh = partial(asked_afresh, loading)
            fresh(query, documents)
            add(name, 1.0, pairs_per_second(requests, 1.0, fresh, 7), loading, fresh(query, documents))
    plain += [pairs_per_second(requests, 1.0, reranker.score, 1) for _ in range(3)]
    add("no states", 1.0, statistics.median(plain), None, reranker.score(query, documents))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for model in arguments.models:
        folder, precisions = MODELS[model]
        for precision in precisions:
            rows += measure(model, ROOT / folder, precision)
            with arguments.output.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, FIELDS)
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
