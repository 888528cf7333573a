"""Compares two runs: `python examples/compare_runs.py one.trec two.trec qrels.txt`."""

import sys
from pathlib import Path

import numpy as np

from ssmrank.evaluation.metrics import evaluate
from ssmrank.evaluation.significance import holm, randomization_test
from ssmrank.io.trec import read_qrels, read_run

DATA = Path(__file__).resolve().parent / "data"
FILES = [DATA / "first-stage.trec", DATA / "second.trec", DATA / "qrels.txt"]
METRICS = ["nDCG@10", "MRR@10"]


def main() -> None:
    one, two, judgments = map(Path, sys.argv[1:4] or FILES)
    qrels = read_qrels(judgments)
    first, second = (evaluate(qrels, read_run(path), METRICS) for path in (one, two))
    differences = np.array(
        [[second.per_query[name][query] - first.per_query[name][query] for query in qrels] for name in METRICS]
    )
    p = holm(randomization_test([differences], permutations=100_000, seed=42))
    print(f"{'':10} {one.stem:>12} {two.stem:>12} {'p (Holm)':>9}")
    for row, name in enumerate(METRICS):
        print(f"{name:10} {first.mean()[name]:12.4f} {second.mean()[name]:12.4f} {p[row]:9.4f}")


if __name__ == "__main__":
    main()
