"""How the precision of matrix products affects ranking: metrics and order of trained rerankers.

    snakemake --cores 8 results/tables/table4.tex
    python benchmarks/precision_quality.py

Reranks a first-stage run of a finished experiment with each of its checkpoints in fp32, bf16 and fp8. On a CPU, fp8
products are computed in float32 from the same rounded factors. For each precision: nDCG@10 and MRR@10 (times 100); the
distance of the scores from fp32's, relative to their spread within a query; and the share of a query's pairs of
documents that are in fp32's order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ssmrank.evaluation.metrics import evaluate
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import Run, read_qrels, read_run
from ssmrank.models.precision import Precision, default_device
from ssmrank.models.reranker import load_reranker
from ssmrank.reranking.engine import rerank

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, default=Path("results/checkpoints"))
    parser.add_argument("--collection", type=Path, default=Path("data/collections/semanlink"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--run", type=Path, default=Path("results/runs/first-stage/semanlink/test/bm25.trec"))
    parser.add_argument("--depth", type=int, default=30)
    parser.add_argument("--token-budget", type=int, default=4096)
    arguments = parser.parse_args()
    documents = TextStore(arguments.collection / "documents.jsonl")
    split = arguments.collection / "splits" / arguments.split
    queries, qrels = read_queries(split / "queries.jsonl"), read_qrels(split / "qrels.txt")
    first = read_run(arguments.run, arguments.depth)
    print(f"{len(first)} queries, depth {arguments.depth}, {default_device()}")
    print(f"{'':28}        nDCG@10  MRR@10  distance  same order")
    for checkpoint in sorted(path.parent for path in arguments.checkpoints.glob("*/*/reranker.json")):
        exact: Run = {}
        for precision in PRECISIONS:
            run = rerank(
                load_reranker(checkpoint), first, queries, documents,
                arguments.depth, arguments.token_budget, precision, default_device(),
            )  # fmt: skip
            exact = exact or run
            means = [100 * value for value in evaluate(qrels, run, ["nDCG@10", "MRR@10"]).mean().values()]
            distance, same = _compared(run, exact)
            name = f"{checkpoint.parent.name}/{checkpoint.name}"
            print(f"{name:28} {precision}  {means[0]:8.2f}{means[1]:8.2f}  {distance:7.2%}   {same:8.2%}", flush=True)


def _compared(run: Run, exact: Run) -> tuple[float, float]:
    """RMS of score differences over the scores' spread, and share of pairs in the same order: means over queries."""
    distances, same = [], []
    for query, ranking in exact.items():
        if len(ranking) < 2:
            continue
        scores = np.array([score for _, score in ranking])
        others = np.array([score for _, score in run[query]])
        spread = scores.std()
        shift = others - scores
        distances.append((shift - shift.mean()).std() / spread if spread else 0.0)
        upper = np.triu_indices(len(scores), 1)
        order = np.sign(np.subtract.outer(scores, scores))[upper]
        other = np.sign(np.subtract.outer(others, others))[upper]
        same.append((order == other)[order != 0].mean())
    return float(np.mean(distances)), float(np.mean(same))


if __name__ == "__main__":
    main()
