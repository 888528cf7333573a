"""Reads the per-query values that `ssmrank evaluate` wrote, and averages them over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssmrank.errors import UserError
from ssmrank.io.plain import read_json

PerQuery = dict[str, dict[str, float]]
"""For each metric, the value of each query; empty where the model did not fit in memory."""


def read_per_query(path: Path) -> PerQuery:
    """Reads one file. Raises UserError where it is missing or not from `ssmrank evaluate`."""
    values = read_json(path, "run `ssmrank evaluate` to make it")
    if not all(isinstance(queries, dict) for queries in values.values()):
        raise UserError(f"{path}: has no values of queries; delete it and run `ssmrank evaluate` again")
    return values


class PerQueryFiles:
    """The files TEST/RUN.json below a folder; each is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read = cache(read_per_query)

    def of_seeds(self, test: str, runs: Sequence[str], metric: str) -> dict[str, float] | None:
        """Each query's mean over the runs; None where the model of one of them did not fit in memory.

        Raises UserError where a file lacks the metric or has other queries than the first file.
        """
        paths = [self.folder / f"{test}/{run}.json" for run in runs]
        files = [self._read(path) for path in paths]
        if not all(files):
            return None
        for path, values in zip(paths, files, strict=True):
            if metric not in values:
                raise UserError(f"{path}: has no {metric}; add it to evaluation.metrics and evaluate again")
            check_same_queries(paths[0], files[0][metric], path, values[metric])
        return {query: float(np.mean([values[metric][query] for values in files])) for query in files[0][metric]}


def check_same_queries(path: Path, queries: dict[str, float], other: Path, others: dict[str, float]) -> None:
    """Raises UserError where two files have different queries."""
    odd = sorted(queries.keys() ^ others.keys())
    if odd:
        raise UserError(
            f"{path} and {other}: {len(odd)} queries are in only one of them, such as {odd[0]}; evaluate both again "
            "with the same qrels"
        )


def as_array(rows: Sequence[dict[str, float]]) -> NDArray[np.float64]:
    """The values of rows with the same queries, [rows, queries], in the first row's order."""
    return np.array([[row[query] for query in rows[0]] for row in rows])
