"""What `deterministic: batch` costs on this device, and how much scores depend on the batch without it.

    OMP_NUM_THREADS=1 PYTHONPATH=src python benchmarks/same_scores.py --collection data/collections/nfcorpus \\
        --run results/runs/first-stage/nfcorpus/test/bm25.trec --output benchmarks/results/same-scores-cpu.csv

Reranks the first documents of some queries with each model and precision. Seconds are medians of both settings taken in
turns; on a CPU they are of the processor, so other processes do not count, and one thread is best. Then the pairs of
`--packed` queries are scored in `--packings` other packings, with the key and without it: the share of pairs with other
scores, quantiles of the differences between a pair's largest and smallest score, and the queries whose top 10 changes.
The file is written after each step, so what was measured stays if a later one is cut off.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ssmrank.config.rerankings import Reranking
from ssmrank.io.collection import documents_file, queries_file
from ssmrank.io.pairs import pairs_of
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import Run, read_run, sort_ranking, strictly_decreasing
from ssmrank.models.precision import default_device, device_name
from ssmrank.models.reranker import Reranker, load_reranker
from ssmrank.reranking.engine import plan_work, reranked, score
from ssmrank.reranking.verification import verify

COLUMNS = (
    *("device", "collection", "model", "precision", "deterministic", "pairs", "tokens", "seconds", "packings"),
    *("queries", "packed_pairs", "other", "median", "p90", "p99", "most", "changed"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--models", type=Path, nargs="+", default=sorted(Path("models/minis").iterdir()))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--token-budget", type=int, default=16384)
    parser.add_argument("--timed", type=int, default=20, help="queries that are timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--packed", type=int, default=0, help="queries that are scored in other packings")
    parser.add_argument("--packings", type=int, default=20)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    done: list[dict[str, object]] = []
    for model in arguments.models:
        for precision in arguments.precisions:
            rows: list[dict[str, object]] = []
            for rows in measured(arguments, model, precision):
                with arguments.output.open("w", encoding="utf-8", newline="") as stream:
                    writer = csv.DictWriter(stream, COLUMNS)
                    writer.writeheader()
                    writer.writerows([*done, *rows])
            done += rows


def measured(arguments: argparse.Namespace, model: Path, precision: str) -> Iterator[list[dict[str, object]]]:
    """A row for each setting: first with its seconds alone, then with what other packings change."""
    reranker = load_reranker(model)
    queries = read_queries(queries_file(arguments.collection, arguments.split))
    texts = TextStore(documents_file(arguments.collection))
    run = read_run(arguments.run, arguments.depth)
    timed = first(run, arguments.timed)
    ids = list({id for ranking in run.values() for id, _ in ranking})
    tokens = dict(zip(ids, reranker.template.tokenize_documents([texts[id] for id in ids]), strict=True))
    device = default_device()
    rows: dict[str | None, dict[str, object]] = {}
    works, seconds = {}, {None: [], "batch": []}
    for key in seconds:
        pairs = pairs_of(timed, arguments.depth)
        works[key] = plan_work(reranker, pairs, queries, tokens, arguments.token_budget, deterministic=key)
    for _ in range(1 + arguments.repeats if arguments.repeats else 0):
        for key, work in works.items():
            began = clock(device)
            score(reranker, work, precision, device, deterministic=key)
            seconds[key].append(clock(device) - began)
    for key, work in works.items():
        rows[key] = {
            **{"device": device_name(device), "collection": arguments.collection.name, "model": model.name},
            **{"precision": precision, "deterministic": key or "", "pairs": len(work.pairs), "tokens": work.tokens},
            "seconds": f"{statistics.median(seconds[key][1:]):.3f}" if seconds[key] else "",
        }
        print(rows[key], flush=True)
    yield list(rows.values())
    if arguments.packed:
        for key in works:
            sample = first(run, arguments.packed)
            settings = Reranking(
                retriever="x", depth=arguments.depth, precision=precision, token_budget=arguments.token_budget,
                deterministic=key,
            )  # fmt: skip
            rows[key] |= in_other_packings(reranker, settings, sample, queries, tokens, device, arguments.packings)
            print(rows[key], flush=True)
            yield list(rows.values())


def in_other_packings(
    reranker: Reranker, settings: Reranking, sample: Run, queries, tokens, device, packings: int
) -> dict[str, object]:
    pairs = pairs_of(sample, settings.depth)
    work = plan_work(reranker, pairs, queries, tokens, settings.token_budget, deterministic=settings.deterministic)
    scores = score(reranker, work, settings.precision, device, deterministic=settings.deterministic)
    run = {
        query: strictly_decreasing(sort_ranking(ranking)) for query, ranking in reranked(sample, pairs, scores).items()
    }
    found = verify(reranker, settings, run, queries, tokens, device, {}, packings)
    quantiles = np.quantile(found.differences, [0.5, 0.9, 0.99, 1.0])
    return {
        **{"packings": packings, "queries": found.queries, "packed_pairs": found.pairs},
        "other": f"{np.mean(found.differences > 0):.4f}",
        **{name: f"{value:.3g}" for name, value in zip(("median", "p90", "p99", "most"), quantiles, strict=True)},
        "changed": found.changed,
    }


def first(run: Run, count: int) -> Run:
    return dict(islice(((query, ranking) for query, ranking in run.items() if ranking), count))


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
