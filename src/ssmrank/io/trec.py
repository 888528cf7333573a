"""TREC runs (`qid Q0 docid rank score tag`) and qrels (`qid 0 docid grade`)."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ssmrank.collector import collector_paused
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file

Run = dict[str, list[tuple[str, float]]]
"""For each query id its (document id, score) pairs, best first."""

Qrels = dict[str, dict[str, int]]
"""For each query id the grade of each judged document."""

OUT_OF_MEMORY = "# OOM"
"""The only line of a run whose model did not fit into memory in training."""


def sort_ranking(ranking: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Sorts (document id, score) by score descending, ties by document id ascending."""
    return sorted(ranking, key=lambda pair: (-pair[1], pair[0]))


def strictly_decreasing(ranking: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """The ranking in its order; a score that is not below the one before it becomes the next smaller float32."""
    pairs = list(ranking)
    written = np.array([np.inf, *(score for _, score in pairs)], dtype=np.float32)
    ties = np.flatnonzero(~(written[1:] < written[:-1])) + 1
    while len(ties):
        # A lowered score may reach those behind it.
        place = int(ties[0])
        while place < len(written) and not written[place] < written[place - 1]:
            written[place] = np.nextafter(written[place - 1], np.float32(-np.inf))
            place += 1
        ties = ties[ties > place]
    return [(document, score) for (document, _), score in zip(pairs, written[1:].tolist(), strict=True)]


@collector_paused()
def write_run(path: str | Path, run: Mapping[str, Iterable[tuple[str, float]]], tag: str) -> None:
    """Writes a run, as `run_writer` does."""
    with run_writer(path, tag) as write:
        for query, ranking in run.items():
            write(query, ranking)


@contextmanager
def run_writer(path: str | Path, tag: str) -> Iterator[Callable[[str, Iterable[tuple[str, float]]], None]]:
    """Yields a function that writes the ranking of a query; the file is complete or absent, no ranking is kept.

    Rankings are sorted, with scores that strictly decrease: evaluation tools read scores in single precision and break
    ties each in its own way. A score that is not below the one before it is therefore written as the next smaller
    float32, so that every tool sees this order.
    """
    with atomic_file(path) as stream:

        def write(query: str, ranking: Iterable[tuple[str, float]]) -> None:
            ordered = sort_ranking(ranking)
            for document, score in ordered:
                if math.isnan(score):
                    raise UserError(f"{path}: score of query {query}, document {document} is NaN; nothing was written")
            stream.writelines(
                f"{query} Q0 {document} {rank} {score:.9g} {tag}\n"
                for rank, (document, score) in enumerate(strictly_decreasing(ordered), start=1)
            )

        yield write


@collector_paused()
def read_run(path: str | Path, depth: int | None = None) -> Run:
    """Reads a run, or the first `depth` documents of each query; order and ties as in `sort_ranking`.

    Raises UserError naming the file and line.
    """
    run: Run = {}
    for query, part, number in _rankings(path):
        known = run.get(query)
        if known is not None:
            part = known + part
            _check_once(path, number, query, part)
        run[query] = part
    return {query: sort_ranking(ranking)[:depth] for query, ranking in run.items()}


def iterate_run(
    path: str | Path, depth: int | None = None, *, ties_by_line: bool = False
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """As `read_run`, one query after the other, of a run too large for memory.

    ties_by_line: documents of equal scores stay in the order of their lines, which is that of whoever ranked them.

    Raises UserError also where the lines of a query do not stand together.
    """
    seen: set[str] = set()
    for query, ranking, number in _rankings(path):
        if query in seen:
            raise UserError(f"{path}:{number}: query {query} stands further up too; sort the lines by query")
        seen.add(query)
        ordered = sorted(ranking, key=lambda pair: -pair[1]) if ties_by_line else sort_ranking(ranking)
        yield query, ordered[:depth]


def _rankings(path: str | Path) -> Iterator[tuple[str, list[tuple[str, float]], int]]:
    """Lines of one query that stand together, with the number of the last."""
    ranking: list[tuple[str, float]] = []
    documents: set[str] = set()
    names: dict[str, str] = {}
    last, number = "", 0
    for line, fields in _fields(path, 6, "qid Q0 docid rank score tag"):
        query, _, document, _, text, _ = fields
        # Queries share documents: one string of each, not one a line, is a fraction of the memory.
        document = names.setdefault(document, document)
        if query != last and ranking:
            yield last, ranking, number
            ranking, documents = [], set()
        last, number = query, line
        try:
            score = float(text)
        except ValueError as error:
            raise UserError(f"{path}:{line}: score {text!r} is not a number") from error
        if math.isnan(score):
            raise UserError(f"{path}:{line}: score of query {query}, document {document} is NaN")
        if document in documents:
            raise _twice(path, line, query, document)
        documents.add(document)
        ranking.append((document, score))
    if ranking:
        yield last, ranking, number


def _check_once(path: str | Path, number: int, query: str, ranking: list[tuple[str, float]]) -> None:
    documents: set[str] = set()
    for document, _ in ranking:
        if document in documents:
            raise _twice(path, number, query, document)
        documents.add(document)


def _twice(path: str | Path, number: int, query: str, document: str) -> UserError:
    return UserError(f"{path}:{number}: document {document} stands twice in query {query}; keep one line")


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Writes qrels in the order given."""
    with atomic_file(path) as stream:
        for query, judged in qrels.items():
            for document, grade in judged.items():
                stream.write(f"{query} 0 {document} {grade}\n")


def read_qrels(path: str | Path) -> Qrels:
    """Reads qrels. Raises UserError naming the file and line."""
    qrels: Qrels = {}
    for number, (query, _, document, text) in _fields(path, 4, "qid 0 docid grade"):
        try:
            qrels.setdefault(query, {})[document] = int(text)
        except ValueError as error:
            raise UserError(f"{path}:{number}: grade {text!r} is not a whole number") from error
    return qrels


@contextmanager
def _gzip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is no complete gzip file ({error}); get it again") from error


def _fields(path: str | Path, count: int, layout: str) -> Iterator[tuple[int, list[str]]]:
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    with file, gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file as stream, _gzip_errors(path):
        for number, line in enumerate(stream, start=1):
            try:
                fields = line.decode("utf-8").split()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number}: byte {error.start + 1} is not UTF-8; convert the file to UTF-8"
                ) from error
            if not fields:
                continue
            if len(fields) != count:
                raise UserError(f"{path}:{number}: {len(fields)} fields where `{layout}` has {count}")
            yield number, fields
