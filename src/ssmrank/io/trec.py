"""TREC runs (`qid Q0 docid rank score tag`) and qrels (`qid 0 docid grade`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

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


def write_run(path: str | Path, run: Mapping[str, Iterable[tuple[str, float]]], tag: str) -> None:
    """Writes a run, sorted, with scores that strictly decrease within a query.

    Evaluation tools read scores in single precision and break ties each in its own way; a score that is not below
    the one before it is therefore written as the next smaller float32, so that every tool sees this order.
    """
    with atomic_file(path) as stream:
        for query, ranking in run.items():
            previous = np.float32(np.inf)
            for rank, (document, score) in enumerate(sort_ranking(ranking), start=1):
                if math.isnan(score):
                    raise UserError(f"{path}: score of query {query}, document {document} is NaN; nothing was written")
                written = np.float32(score)
                if not written < previous:
                    written = np.nextafter(previous, np.float32(-np.inf))
                stream.write(f"{query} Q0 {document} {rank} {written:.9g} {tag}\n")
                previous = written


def read_run(path: str | Path) -> Run:
    """Reads a run; order and ties as in `sort_ranking`. Raises UserError naming the file and line."""
    run: Run = {}
    seen: set[tuple[str, str]] = set()
    for number, fields in _fields(path, 6, "qid Q0 docid rank score tag"):
        query, _, document, _, text, _ = fields
        try:
            score = float(text)
        except ValueError as error:
            raise UserError(f"{path}:{number}: score {text!r} is not a number") from error
        if math.isnan(score):
            raise UserError(f"{path}:{number}: score of query {query}, document {document} is NaN")
        if (query, document) in seen:
            raise UserError(f"{path}:{number}: document {document} stands twice in query {query}; keep one line")
        seen.add((query, document))
        run.setdefault(query, []).append((document, score))
    return {query: sort_ranking(ranking) for query, ranking in run.items()}


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


def _fields(path: str | Path, count: int, layout: str) -> Iterator[tuple[int, list[str]]]:
    path = Path(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    with stream:
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
