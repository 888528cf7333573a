"""Latencies of a server without any noise: what `serving.py` would measure if each batch took what its pairs take.

    python benchmarks/serving_queue.py

Requests come at the times of a Poisson process. A batch takes all that wait, `FIXED` milliseconds, and some for each
document, more for a new one. `serving.py` asks for half of the pairs a second that a server can do. Prints p50, p99 and
their ratio over many requests, and in what range 8 of 10 measurements of as few requests as `serving.py` sends fall.
Then prints at which loads p99 is at most `WANTED` times p50.
"""

from __future__ import annotations

import numpy as np

DOCUMENTS, FIXED = 10, 4.0
MANY = 200_000
WANTED = 3.0
CASES = {
    "every document found": (2.0, 0.0, 1.0, 184),
    "NFCorpus, 95% repeated": (1.86, 11.5, 0.95, 184),
    "MS MARCO documents, 95% repeated": (1.5, 30.0, 0.95, 151),
}
"""Milliseconds of a document, more of a new one, share of repeated ones, and requests of a measurement."""


def latencies(each: float, new: float, repeated: float, requests: int, load: float, seed: int) -> np.ndarray:
    """Milliseconds from each request to its answer, float64; load: of what the server can do."""
    random = np.random.default_rng(seed)
    takes = DOCUMENTS * each + new * random.binomial(DOCUMENTS, 1 - repeated, requests)
    comes = np.cumsum(random.exponential(takes.mean() / load, requests))
    found, now, first = np.empty(requests), 0.0, 0
    while first < requests:
        now = max(now, comes[first])
        last = int(np.searchsorted(comes, now, side="right"))
        now += FIXED + takes[first:last].sum()
        found[first:last] = now - comes[first:last]
        first = last
    return found


def quantiles(each: float, new: float, repeated: float, load: float) -> tuple[float, float]:
    """p50 and p99 of many requests."""
    p50, p99 = np.quantile(latencies(each, new, repeated, MANY, load, 0), [0.5, 0.99])
    return float(p50), float(p99)


def promise(name: str, each: float, new: float, repeated: float) -> str:
    """A line that says at which loads, in steps of 5%, a case's p99 is at most `WANTED` times its p50.

    They need not be all below the greatest: with more load, the median request waits too, and p50 may grow faster.
    """
    found = {load: quantiles(each, new, repeated, load / 100) for load in (0.01, *range(5, 100, 5))}
    loads = [str(load) for load, (p50, p99) in found.items() if load >= 5 and p99 <= WANTED * p50]
    held = f"at loads of {', '.join(loads)}%" if loads else "at no load"
    p50, p99 = found[0.01]
    return f"{name}: p99 is at most {WANTED:.0f} times p50 {held}; {p99 / p50:.1f} times where no request waits"


def main() -> None:
    for load in (0.5, 0.3, 0.1):
        for name, (each, new, repeated, few) in CASES.items():
            p50, p99 = quantiles(each, new, repeated, load)
            measured = [latencies(each, new, repeated, few, load, seed) for seed in range(200)]
            low, high = np.quantile([np.quantile(one, 0.99) / np.median(one) for one in measured], [0.1, 0.9])
            print(
                f"{name}, load {load:.0%}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, {p99 / p50:.1f} times; "
                f"{low:.1f} to {high:.1f} times with {few} requests"
            )
    for name, (each, new, repeated, _) in CASES.items():
        print(promise(name, each, new, repeated))


if __name__ == "__main__":
    main()
