"""Reads one run query by query, in the order of another run that is read from start to end."""

from __future__ import annotations

from pathlib import Path

from ssmrank.io.trec import iterate_run


class RunReader:
    """Gives each query's ranking once.

    Runs of one split usually have their queries in the same order, so that hardly more than one ranking is in memory.
    If the order differs, rankings that were read but not yet asked for wait in memory.
    """

    def __init__(self, path: Path, depth: int | None = None) -> None:
        self._rankings = iterate_run(path, depth)
        self._waiting: dict[str, list[tuple[str, float]]] = {}

    def take(self, query: str) -> list[tuple[str, float]]:
        """The (document id, score) pairs of a query, best first; empty if the run does not have the query."""
        if query in self._waiting:
            return self._waiting.pop(query)
        for found, ranking in self._rankings:
            if found == query:
                return ranking
            self._waiting[found] = ranking
        return []
