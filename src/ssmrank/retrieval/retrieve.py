"""BM25 over a Lucene index, searched by Anserini."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from ssmrank.config.retrievers import Bm25
from ssmrank.errors import UserError
from ssmrank.io.atomic import scratch_directory
from ssmrank.io.texts import read_queries
from ssmrank.io.trec import Run, sort_ranking
from ssmrank.retrieval.first_stage import Ranking, Written, batched, without_own, write_first_stage
from ssmrank.retrieval.index import read_description
from ssmrank.retrieval.java import run_anserini

logger = logging.getLogger(__name__)


def retrieve(
    settings: Bm25, index: Path, queries: Path, output: Path, *, threads: int = 1, leave_out_own: bool = False
) -> Written:
    """Writes the run of the queries in a JSON lines file ({"id", "text"}); returns its counts.

    The run keeps the file's order of queries; a query without a hit has no line. The tag is the label with dashes for
    blanks. With `leave_out_own`, a document that has the query's id is no hit.

    Raises:
        UserError: where there are no queries or malformed ones, the index is missing or was built with another
            stemmer, a query has more than 1,024 different terms, or no query has a hit.
    """
    texts = read_queries(queries)
    if not texts:
        raise UserError(f"{queries}: no queries; nothing to retrieve")
    logger.info("%s: %d queries, k1=%g b=%g depth %d", output, len(texts), settings.k1, settings.b, settings.depth)
    deeper = settings.model_copy(update={"depth": settings.depth + leave_out_own})
    rankings = search_in_parts(deeper, index, texts, threads=threads, scratch=output.parent)
    if leave_out_own:
        rankings = without_own(rankings, settings.depth)
    return write_first_stage(output, rankings, texts, settings.label, f"check that {index} is of the same collection")


def search(
    settings: Bm25, index: Path, queries: Mapping[str, str], *, threads: int = 1, scratch: Path | None = None
) -> Run:
    """As `search_in_parts`, with all rankings in memory."""
    return dict(search_in_parts(settings, index, queries, threads=threads, scratch=scratch))


def search_in_parts(
    settings: Bm25,
    index: Path,
    queries: Mapping[str, str],
    *,
    threads: int = 1,
    scratch: Path | None = None,
    hits_at_once: int = 5_000_000,
) -> Iterator[tuple[str, Ranking]]:
    """The first `depth` documents of each query, best first; queries without a hit are left out.

    A query is a bag of words: no character in it is an operator. Lucene orders by score, ties by ascending document id,
    and then cuts at `depth`, so segments and threads do not decide which documents pass the cutoff. Scores are those
    that Anserini prints. The documents are then put in trec_eval's order (`sort_ranking`).

    Args:
        settings: k1, b, stemmer and depth.
        index: folder written by `build_index`, with the same stemmer.
        queries: text of each query id.
        threads: search threads; their number does not change the result.
        scratch: folder for temporary files; the system's by default.
        hits_at_once: limits the queries of one Anserini process, which keeps all its hits in memory. At least 1,000
            queries are searched at once.
    """
    stemmer = read_description(index).stemmer
    if stemmer != settings.stemmer:
        raise UserError(
            f"{index}: built with stemmer {stemmer}, but the settings say {settings.stemmer}; build it again or change "
            "stemmer"
        )
    if threads < 1:
        raise UserError(f"threads: {threads} is less than 1")
    progress = _Progress(len(queries))
    for names in batched(queries, max(1000, hits_at_once // settings.depth)):
        with scratch_directory("retrieve", scratch) as folder:
            texts = {name: queries[name] for name in names}
            yield from _search(texts, settings, index, threads, folder, progress)
        progress.done += len(names)


def _search(
    queries: Mapping[str, str], settings: Bm25, index: Path, threads: int, folder: Path, progress: _Progress
) -> Iterator[tuple[str, Ranking]]:
    topics, found = folder / "topics.jsonl", folder / "found.trec"
    # JSON topics can hold any text; Anserini's reader of tab-separated topics stops at an empty query and drops what
    # follows a tab. Queries are numbered, so that their ids may be any strings and Anserini keeps their order.
    with topics.open("w", encoding="utf-8") as stream:
        for number, text in enumerate(queries.values()):
            stream.write(json.dumps({"qid": f"{number:09d}", "title": text}) + "\n")
    options = {"-index": index, "-topics": topics, "-topicReader": "JsonString", "-output": found}
    options |= {"-bm25.k1": settings.k1, "-bm25.b": settings.b, "-hits": settings.depth}
    options |= {"-stemmer": settings.stemmer, "-threads": threads}
    run_anserini("search.SearchCollection", options, ["-bm25"], progress)
    if not found.is_file():
        raise UserError(f"{index}: Anserini wrote no run and gave no reason; check that the index is complete")
    yield from _read_found(found, list(queries))


def _read_found(path: Path, names: list[str]) -> Iterator[tuple[str, Ranking]]:
    """Reads Anserini's run in the order of its topics.

    Anserini rounds scores to 4 decimals and lowers ties by 1e-6 a rank. trec_eval reads single precision, in which
    scores of 16 and more are tied again. Published values are computed that way, so these ties are kept.
    """
    with path.open(encoding="utf-8") as stream:
        for number, lines in groupby((line.split() for line in stream), key=itemgetter(0)):
            yield names[int(number)], sort_ranking((line[2], float(line[4])) for line in lines)


class _Progress:
    """Logs Anserini's count of finished queries at most every few seconds; Anserini reports it every 100 queries."""

    seconds = 5.0

    def __init__(self, queries: int) -> None:
        self.queries, self.done = queries, 0
        self.due = time.monotonic() + self.seconds

    def __call__(self, message: str) -> None:
        done = re.search(r": (\d+) queries processed$", message)
        if done and time.monotonic() >= self.due:
            logger.info("%d of %d queries", self.done + int(done[1]), self.queries)
            self.due = time.monotonic() + self.seconds
