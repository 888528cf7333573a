"""What loading a reranker and its first call cost, each in processes of their own.

    python benchmarks/loading.py --output benchmarks/results/loading-cpu.csv

Medians of the seconds of CPU time, which other processes on the machine change little. transformers imports the code of
its models when the first one is made, so this part has a row of its own. A first call compiles the loops for the CPU
where the cache on disk is cold, and reads them from it where it is warm.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = Path(__file__).resolve().parents[1] / "models/minis/mamba2"

CODE = """
import json, sys, time

times = [time.process_time()]

def lap():
    times.append(time.process_time())

import torch, transformers
lap()
from transformers import Mamba2Model
lap()
import ssmrank
ssmrank.Reranker
lap()
reranker = ssmrank.Reranker.from_pretrained(sys.argv[1])
lap()
for _ in range(2):
    reranker.score("a query", ["one text", "another text"])
    lap()
print(json.dumps([after - before for before, after in zip(times, times[1:])]))
"""

STEPS = (
    "import torch, transformers",
    "transformers' model classes",
    "import ssmrank",
    "Reranker.from_pretrained",
    "first score of two texts",
    "second score of two texts",
)


def seconds(cache: str) -> list[float]:
    """The CPU seconds of each step in a new process; cache: folder of compiled loops."""
    command = [sys.executable, "-c", CODE, str(MODEL)]
    output = subprocess.check_output(command, env=os.environ | {"NUMBA_CACHE_DIR": cache}, stderr=subprocess.DEVNULL)
    return json.loads(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    warm, cold = [], []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(seconds(cache))
            warm.append(seconds(cache))
    rows = [
        {
            "step": step,
            "warm_cpu_seconds": f"{statistics.median(run[place] for run in warm):.2f}",
            "cold_cpu_seconds": f"{statistics.median(run[place] for run in cold):.2f}",
        }
        for place, step in enumerate(STEPS)
    ]
    for row in rows:
        print(f"{row['step']:30} {row['warm_cpu_seconds']:>6} {row['cold_cpu_seconds']:>6}")
    if arguments.output is not None:
        with arguments.output.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
