"""Rankings of one run asked for query by query, beside another run that is read from start to end."""

from __future__ import annotations

from pathlib import Path

from ssmrank.io.trec import iterate_run


class RunReader:
    """Gives each query's ranking once.

    Runs of one split have their queries in one order as a rule, so that little more than one ranking is in memory. Of
    a run in another order those wait here that have not been asked for.
    """

    def __init__(self, path: Path, depth: int | None = None) -> None:
        self._rankings = iterate_run(path, depth)
        self._waiting: dict[str, list[tuple[str, float]]] = {}

    def take(self, query: str) -> list[tuple[str, float]]:
        """The (document id, score) pairs of a query, best first; none where the run does not have it."""
        if query in self._waiting:
            return self._waiting.pop(query)
        for found, ranking in self._rankings:
            if found == query:
                return ranking
            self._waiting[found] = ranking
        return []
