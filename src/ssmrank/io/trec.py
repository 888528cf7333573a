"""TREC runs (`qid Q0 docid rank score tag`) and qrels (`qid 0 docid grade`)."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader, BytesIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np

from ssmrank.errors import UserError, shown
from ssmrank.gc_control import gc_paused
from ssmrank.io.atomic import atomic_file
from ssmrank.io.files import BYTE_ORDER_MARK, decode, lines_up_to, open_file

Run = dict[str, list[tuple[str, float]]]
"""The (document id, score) pairs of each query id, best first."""

Qrels = dict[str, dict[str, int]]
"""The grade of each judged document, by query id and document id."""

_BLOCK = 2**17
"""How many bytes of a run are read at once: few enough that what is made of them fits the processor's cache."""

_MAGNITUDE = 2**31 - 1
"""All bits of a float32 except the sign."""

_INFINITY = 0x7F800000
"""The bits of infinity in float32."""

_LARGEST_SCORE = float(np.finfo(np.float32).max)

LONGEST_LINE = 2**20
"""Lines of a run or of qrels must have fewer bytes than this."""

LARGEST_GRADE = 1_000_000
"""trec_eval counts the documents of each grade from 0 on, so a grade of 2^31 takes 16 GB."""

_WHOLE = re.compile(r"[-+]?[0-9]{1,10}")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?(inf(inity)?|nan)", re.IGNORECASE)

Ties = Literal["trec_eval", "file"]
"""Which of two documents with equal scores comes first: the one with the greater id, or the one in the earlier line."""

OUT_OF_MEMORY = "# OOM"
"""The only line of a run whose model did not fit into memory."""


def is_out_of_memory(path: str | Path) -> bool:
    """Whether the run is that of a model that could not be trained or run for lack of memory."""
    with open_file(path, "rerank or retrieve first") as stream:
        return stream.readline(100).strip() == OUT_OF_MEMORY.encode()


def sort_ranking(ranking: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Sorts (document id, score) as trec_eval does: by score in single precision, ties by document id, both descending.

    NaNs come last.
    """
    pairs = list(ranking)
    scores = single_precision(_scores(pairs))
    if (scores[1:] < scores[:-1]).all():
        return pairs
    order = np.argsort(-scores, kind="stable")
    ordered, scores = [pairs[place] for place in order.tolist()], scores[order]
    # Where equal scores begin and end.
    equal = np.concatenate([[False], scores[1:] == scores[:-1], [False]])
    for low, high in np.flatnonzero(equal[1:] != equal[:-1]).reshape(-1, 2).tolist():
        ordered[low : high + 1] = sorted(ordered[low : high + 1], key=itemgetter(0), reverse=True)
    return ordered


def single_precision(scores: np.ndarray) -> np.ndarray:
    """Scores as trec_eval reads them, float32; values too large for it become infinite."""
    with np.errstate(over="ignore"):
        return scores.astype(np.float32)


def strictly_decreasing(ranking: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """The ranking in its order; a score that is not below its predecessor becomes the float32 just below that."""
    pairs = list(ranking)
    return list(zip((document for document, _ in pairs), _lowered(_scores(pairs)).tolist(), strict=True))


def _scores(pairs: Sequence[tuple[str, float]]) -> np.ndarray:
    return np.fromiter(map(itemgetter(1), pairs), dtype=np.float64, count=len(pairs))


def _lowered(scores: np.ndarray) -> np.ndarray:
    """Scores as `strictly_decreasing` returns them, float32."""
    written = single_precision(np.concatenate([[np.inf], scores]))
    if (written[1:] < written[:-1]).all():
        return written[1:]
    # As places, neighbouring values differ by 1: each place has to be at least 1 below the one before it.
    values = float32_places(written)
    steps = np.arange(len(values))
    lowered = np.minimum.accumulate(values + steps) - steps
    return np.where(lowered == values, written, of_places(lowered))[1:]


def float32_places(values: np.ndarray) -> np.ndarray:
    """float32 values as integers, int64, in the same order; neighbouring float32 values differ by 1."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & _MAGNITUDE), bits)


def of_places(places: np.ndarray) -> np.ndarray:
    """The float32 values at the places that `float32_places` gives; below the lowest place it is minus infinity."""
    places = np.maximum(places, -_INFINITY)
    return np.where(places < 0, -places | ~_MAGNITUDE, places).astype(np.int32).view(np.float32)


@gc_paused()
def write_run(path: str | Path, run: Mapping[str, Iterable[tuple[str, float]]], tag: str) -> None:
    """Writes a run as `run_writer` does."""
    with run_writer(path, tag) as write:
        for query, ranking in run.items():
            write(query, ranking)


@contextmanager
def run_writer(path: str | Path, tag: str) -> Iterator[Callable[[str, Iterable[tuple[str, float]]], None]]:
    """Yields a function that writes the ranking of a query.

    The file is complete or absent, and no ranking is kept in memory. Rankings are sorted as `sort_ranking` does.
    Evaluation tools read scores in single precision, and each breaks ties in its own way. A score that is not below its
    predecessor is therefore written as the float32 just below that, so that every tool sees trec_eval's order. Raises
    UserError for NaN.
    """
    with atomic_file(path, "wb") as stream:

        def write(query: str, ranking: Iterable[tuple[str, float]]) -> None:
            ordered = sort_ranking(ranking)
            scores = _scores(ordered)
            odd = np.flatnonzero(np.isnan(scores))
            if len(odd):
                document = ordered[odd[0]][0]
                raise UserError(f"{path}: score of query {query}, document {document} is NaN; nothing was written")
            stream.write(run_lines(query, [document.encode() for document, _ in ordered], scores, tag))

        yield write


def run_lines(
    query: str, documents: Sequence[bytes], scores: np.ndarray, tag: str, texts: np.ndarray | None = None
) -> bytes:
    """The lines of a query's sorted documents, UTF-8, with scores as `run_writer` writes them.

    texts: bytes [N], what `score_texts` makes of the scores, where it is not empty.
    """
    lowered = _lowered(scores)
    written = score_texts(lowered.tolist()) if texts is None else texts.tolist()
    if texts is not None:
        changed = np.flatnonzero((lowered != scores) | (texts == b""))
        for place, text in zip(changed.tolist(), score_texts(lowered[changed].tolist()), strict=True):
            written[place] = text
    # Joining pieces takes a third of the time of formatting lines.
    pieces = [f" {tag}\n{query} Q0 ".encode()] * (4 * len(documents))
    pieces[1::4] = documents
    pieces[2::4] = _ranks(len(documents))
    pieces[3::4] = written
    if not pieces:
        return b""
    pieces[0] = f"{query} Q0 ".encode()
    return b"".join([*pieces, f" {tag}\n".encode()])


def score_texts(scores: Sequence[float]) -> list[bytes]:
    """Scores as they are written, in the fewest of up to nine digits, which give every float32 back."""
    return [b"%.9g" % score for score in scores]


@lru_cache(1)
def _ranks(count: int) -> list[bytes]:
    """The ranks from 1 on, between blanks."""
    return [b" %d " % rank for rank in range(1, count + 1)]


@gc_paused()
def read_run(path: str | Path, depth: int | None = None) -> Run:
    """Reads a run, or the first `depth` documents of each query, sorted as `sort_ranking` does.

    Raises UserError that names the file and line.
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
    path: str | Path, depth: int | None = None, *, ties: Ties = "trec_eval"
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Reads a run that is too large for memory, one query at a time; otherwise as `read_run`.

    ties: "file": documents of equal scores keep the order of their lines. Raises UserError also if the lines of a query
    are not adjacent.
    """
    seen: set[str] = set()
    for query, ranking, number in _rankings(path):
        if query in seen:
            raise UserError(f"{path}:{number}: query {query} already appears in earlier lines; sort the lines by query")
        seen.add(query)
        ordered = sorted(ranking, key=lambda pair: -pair[1]) if ties == "file" else sort_ranking(ranking)
        yield query, ordered[:depth]


_Ranking = tuple[str, list[tuple[str, float]], int]
"""Adjacent lines of one query: the query, its (document id, score) pairs, and the number of the last line."""


def _rankings(path: str | Path) -> Iterator[_Ranking]:
    # Queries share documents, so one string for each document takes a fraction of the memory of one for each line.
    names: dict[str, str] = {}
    ranking = _Lines(path)
    for first, queries, documents, scores in lines_of(path):
        documents = list(map(names.setdefault, documents, documents))
        begin = 0
        for query, same in groupby(queries):
            end = begin + len(list(same))
            yield from ranking.begin(query)
            ranking.add(first + begin, documents[begin:end], scores[begin:end])
            begin = end
    yield from ranking.begin(None)


def lines_of(path: str | Path) -> Iterator[tuple[int, list[str], list[str], list[float]]]:
    """The lines of a run in blocks of one or many: the number of the first line, then queries, documents and scores.

    Raises UserError that names the file and line, but not for repeated documents.
    """
    infinite: set[tuple[str, bool]] = set()
    with _opened(path) as stream:
        for first, lines in _blocks(stream):
            columns = _columns(lines) if isinstance(lines, bytes) else None
            if columns is not None:
                yield first, *columns
                continue
            one_by_one = BytesIO(lines) if isinstance(lines, bytes) else lines
            for number, fields in _fields(path, one_by_one, first, "qid Q0 docid rank score tag"):
                query, _, document, _, text, _ = fields
                if not _NUMBER.fullmatch(text):
                    raise UserError(f"{path}:{number}: score {shown(text)} is not a number")
                score = float(text)
                where = f"{path}:{number}: score of query {query}, document {document} is"
                if math.isnan(score):
                    raise UserError(f"{where} NaN")
                if abs(score) > _LARGEST_SCORE:
                    if (query, score > 0) in infinite:
                        raise UserError(
                            f"{where} {score:g}, infinite in single precision like that of an earlier document, so "
                            "their order is unknown; give finite scores"
                        )
                    infinite.add((query, score > 0))
                yield number, [query], [document], [score]


class _Lines:
    """Collects the adjacent lines of one query until a line of another query comes."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._query: str | None = None
        self._ranking: list[tuple[str, float]] = []
        self._documents: set[str] = set()
        self._last = 0

    def begin(self, query: str | None) -> Iterator[_Ranking]:
        """Tells that a line of this query comes, or none (None); yields the ranking that this ends, if any."""
        if query != self._query and self._query is not None:
            yield self._query, self._ranking, self._last
            self._ranking, self._documents = [], set()
        self._query = query

    def add(self, first: int, documents: Sequence[str], scores: Sequence[float]) -> None:
        """Adds lines of the query; `first` is the number of the first one."""
        fresh = set(documents)
        if len(fresh) < len(documents) or not fresh.isdisjoint(self._documents):
            for number, document in enumerate(documents, first):
                if document in self._documents:
                    raise _twice(self._path, number, str(self._query), document)
                self._documents.add(document)
        self._documents |= fresh
        self._ranking += zip(documents, scores, strict=True)
        self._last = first + len(documents) - 1


def _blocks(stream: IO[bytes]) -> Iterator[tuple[int, bytes | IO[bytes]]]:
    """Blocks of whole lines, each with the number of its first line; a compressed file is one block, its stream."""
    if not isinstance(stream, BufferedReader):
        yield 1, stream
        return
    number = 1
    while block := stream.read(_BLOCK) + stream.readline(LONGEST_LINE):
        yield number, block
        number += block.count(b"\n")


def _columns(block: bytes) -> tuple[list[str], list[str], list[float]] | None:
    """The queries, documents and scores of a run's lines; None unless all lines are valid and plain.

    Plain lines are ASCII. They have six fields with one blank or tab between, a line feed at the end, and a score that
    is finite in single precision.
    """
    content = np.frombuffer(block, dtype=np.uint8)
    places = np.flatnonzero(content <= ord(" "))
    if not block.endswith(b"\n") or len(places) % 6 or not block.isascii() or (np.diff(places, prepend=-1) == 1).any():
        return None
    signs = content[places].reshape(-1, 6)
    if not ((signs[:, :5] == ord(" ")) | (signs[:, :5] == ord("\t"))).all() or (signs[:, 5] != ord("\n")).any():
        return None
    fields = block.decode("ascii").split()
    # Python's float accepts 1_000 too.
    if "_" in "".join(fields[4::6]):
        return None
    try:
        scores = list(map(float, fields[4::6]))
    except ValueError:
        return None
    # The sum finds any NaN in almost no time; max and min find infinities.
    if math.isnan(sum(scores)) or max(scores) > _LARGEST_SCORE or min(scores) < -_LARGEST_SCORE:
        return None
    return fields[0::6], fields[2::6], scores


def _check_once(path: str | Path, number: int, query: str, ranking: list[tuple[str, float]]) -> None:
    documents: set[str] = set()
    for document, _ in ranking:
        if document in documents:
            raise _twice(path, number, query, document)
        documents.add(document)


def _twice(path: str | Path, number: int, query: str, document: str) -> UserError:
    return UserError(f"{path}:{number}: document {document} appears twice in query {query}; keep one line")


def write_qrels(path: str | Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Writes qrels in the given order."""
    with atomic_file(path) as stream:
        for query, judged in qrels.items():
            for document, grade in judged.items():
                stream.write(f"{query} 0 {document} {grade}\n")


def read_qrels(path: str | Path) -> Qrels:
    """Reads qrels. Raises UserError that names the file and line."""
    qrels: Qrels = {}
    with _opened(path) as stream:
        for number, (query, _, document, text) in _fields(path, stream, 1, "qid 0 docid grade"):
            if not _WHOLE.fullmatch(text):
                raise UserError(f"{path}:{number}: grade {shown(text)} is not a whole number")
            grade = int(text)
            check_grade(grade, f"{path}:{number}: grade")
            known = qrels.setdefault(query, {}).setdefault(document, grade)
            if known != grade:
                raise UserError(
                    f"{path}:{number}: document {document} of query {query} already has grade {known}; keep one line"
                )
    return qrels


def check_grade(grade: int, where: str) -> None:
    """Raises UserError for a grade beyond `LARGEST_GRADE` in magnitude, which no judge gives."""
    if abs(grade) > LARGEST_GRADE:
        raise UserError(f"{where} {grade:.3g} is beyond {LARGEST_GRADE:,}; grades are small whole numbers")


@contextmanager
def _gzip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is not a complete gzip file ({error}); get it again") from error


@contextmanager
def _opened(path: str | Path) -> Iterator[IO[bytes]]:
    path = Path(path)
    with open_file(path) as file, _gzip_errors(path):
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=file) as stream:
                yield cast(IO[bytes], stream)
        else:
            yield file


def _fields(path: str | Path, lines: IO[bytes], first: int, layout: str) -> Iterator[tuple[int, list[str]]]:
    """The number and fields of each line that is not blank; `first` is the number of the first line."""
    count = len(layout.split())
    for number, raw in lines_up_to(lines, path, LONGEST_LINE, first):
        line = decode(raw, f"{path}:{number}")
        fields = line.split()
        if not fields:
            continue
        if line.startswith(BYTE_ORDER_MARK):
            raise UserError(f"{path}:{number}: begins with a byte order mark; save the file as UTF-8 without one")
        if "\0" in line:
            raise UserError(f"{path}:{number}: has a byte of value 0; is it a text file?")
        if len(fields) != count:
            raise UserError(f"{path}:{number}: {len(fields)} fields, but `{layout}` has {count}")
        yield number, fields
