"""What all first stages share: rankings as they are found, and the run file that they are written to."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ssmrank.errors import UserError
from ssmrank.io.trec import run_writer

logger = logging.getLogger(__name__)

Ranking = list[tuple[str, float]]
"""(document id, score), best first."""


class Written(NamedTuple):
    """Counts of a run that was written: queries with a hit, and hits of all of them."""

    queries: int
    hits: int


def without_own(rankings: Iterable[tuple[str, Ranking]], depth: int) -> Iterator[tuple[str, Ranking]]:
    """Removes the document that has the query's id and cuts at `depth`; leaves out rankings that are then empty."""
    for query, ranking in rankings:
        kept = [pair for pair in ranking if pair[0] != query][:depth]
        if kept:
            yield query, kept


def write_first_stage(
    output: Path, rankings: Iterable[tuple[str, Ranking]], queries: Collection[str], label: str, advice: str
) -> Written:
    """Writes a run; queries without a ranking are logged. Its tag is the label with dashes for blanks.

    Raises UserError with `advice` at its end where no query has a hit.
    """
    answered: set[str] = set()
    hits = 0
    with run_writer(output, "-".join(label.split()) or "run") as write:
        for query, ranking in rankings:
            write(query, ranking)
            answered.add(query)
            hits += len(ranking)
        if not answered:
            raise UserError(f"{output}: no query has a hit; {advice}")
    missing = [query for query in queries if query not in answered]
    logger.info("%s: %d documents for %d queries, %d without a hit", output, hits, len(answered), len(missing))
    if missing:
        logger.info("%s: no hit for %s", output, ", ".join(missing[:5]) + (", …" if len(missing) > 5 else ""))
    return Written(len(answered), hits)


def batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Splits items into lists of at most `size`, in order."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
