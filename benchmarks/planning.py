"""How long it takes to plan a reranking with document reuse, on the CPU; no model runs.

    python benchmarks/planning.py

Prints for each workload and input length (shorter ones cut more documents) the batches, the tokens to compute, and the
seconds of `plan_batches`, median of five.
"""

from __future__ import annotations

import argparse
import statistics
import time

from workloads import read_workload

from ssmrank.reranking.batches import plan_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=["nfcorpus-whole", "scifact-whole"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 256])
    parser.add_argument("--token-budget", type=int, default=131072)
    arguments = parser.parse_args()
    for name in arguments.workloads:
        for length in arguments.lengths:
            sequences = read_workload(name).sequences("document-first", 50_000, length)
            seconds = []
            for _ in range(5):
                start = time.perf_counter()
                batches = plan_batches(sequences, arguments.token_budget, share=True)
                seconds.append(time.perf_counter() - start)
            print(
                f"{name:16} {length:5} tokens  {len(sequences):,} pairs in {len(batches)} batches, "
                f"{sum(batch.tokens for batch in batches):,} tokens to compute: {statistics.median(seconds):.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
