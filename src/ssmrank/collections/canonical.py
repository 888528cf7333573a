"""The canonical form: how every collection is stored, whatever its source.

    documents.jsonl                 {"id", "text"} on each line, with the arrays of its TextStore beside it
    splits/SPLIT/queries.jsonl      {"id", "text"} on each line: judged queries with text and a relevant document
    splits/SPLIT/qrels.txt          all qrels of the source, in TREC's format; evaluation reads them
    statistics.json                 counts of what was written and what was left out

All errors in a collection are found here, so that later steps can trust these files.
"""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssmrank.collections.source import Part, Source
from ssmrank.config.collections import Expected, ExpectedSplit
from ssmrank.errors import UserError, shown
from ssmrank.io.atomic import atomic_directory
from ssmrank.io.collection import documents_file, split_folder
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.texts import DuplicateId, StoreWriter, TextStore
from ssmrank.io.trec import Qrels, check_grade, write_qrels

_log = logging.getLogger(__name__)

_PROGRESS_EVERY = 500_000

LONGEST_TEXT = 10_000_000
"""The most characters in a document or query; the JSON reader of Lucene's indexer stops at twice as many."""

_LONGEST_ID = 1000
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ufeff\ud800-\udfff]")
"""Control characters, byte order marks and lone surrogates."""


def write_collection(
    source: Source, splits: Sequence[str], output: str | Path, expected: Expected | None = None
) -> dict[str, Any]:
    """Writes `output`, completely or not at all; returns and logs the contents of `statistics.json`.

    Documents are streamed and take 24 bytes of memory each. The queries and judgments of one split at a time are held
    in memory. Empty documents are kept and counted. Judgments of documents that the collection lacks are kept and
    counted, because they are part of a query's ideal ranking and of its recall. Queries without text or without a
    relevant document are not asked. Their judgments are kept, so that they score 0, as with `trec_eval -c`. Negative
    grades become 0, which means the same to trec_eval.

    Raises UserError, naming the place, for an id that files cannot hold, a repeated id, a text that is too long, a
    collection without documents, a split without queries, judgments or relevant documents with text, and numbers of
    documents, queries or judgments other than `expected`. It also raises UserError for contradicting judgments and for
    judgments of unknown queries, unless the source is `tolerant`. A tolerant source may repeat a document unchanged;
    the first copy is kept.
    """
    expected = expected or Expected()
    with atomic_directory(output) as folder:
        statistics = _write_documents(source, documents_file(folder))
        found = statistics["documents"] + statistics["documents_repeated"]
        _check_number(source.where("documents", 0), "documents", found, expected.documents)
        documents = TextStore(documents_file(folder))
        statistics["splits"] = {}
        for split in splits:
            numbers = expected.splits.get(split, ExpectedSplit())
            statistics["splits"][split] = _write_split(source, split, documents, split_folder(folder, split), numbers)
        (folder / "statistics.json").write_text(json.dumps(statistics, indent=2) + "\n", encoding="utf-8")
    _report(statistics)
    return statistics


def _write_documents(source: Source, path: Path) -> dict[str, Any]:
    numbers = array("Q")
    empty = 0
    try:
        with StoreWriter(path, drop_repeated=source.tolerant) as writer:
            for document in source.documents():
                _check_id(source, "documents", document.id, document.number)
                _check_length(document.text, source, "documents", document.number)
                extra = {key: _encodable(value) for key, value in document.extra.items()}
                writer.add(document.id, _encodable(document.text), extra)
                numbers.append(document.number)
                empty += not document.text.strip()
                if len(writer) % _PROGRESS_EVERY == 0:
                    _log.info("%s documents written", f"{len(writer):,}")
    except DuplicateId as error:
        first, second = (source.where("documents", numbers[row]) for row in (error.first, error.second))
        other = " with another text" if source.tolerant else ""
        raise UserError(
            f"{second}: document id {error.id!r} is already used at {first}{other}; keep one of them"
        ) from error
    if not numbers:
        raise UserError(f"{source.where('documents', 0)}: has no documents")
    return {
        "documents": len(writer),
        "documents_empty": empty,
        "documents_repeated": len(numbers) - len(writer),
        "documents_left_out": dict(source.left_out),
    }


def _check_number(where: str, what: str, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise UserError(
            f"{where}: {found:,} {what}, but {expected:,} are expected; it is incomplete or another version: get it "
            "again, or correct `expected` in params.yaml"
        )


def _write_split(
    source: Source, split: str, documents: TextStore, folder: Path, expected: ExpectedSplit
) -> dict[str, Any]:
    queries = _read_queries(source, split)
    judged = _read_judgments(source, split, queries, documents)
    where = source.where("judgments", 0, split)
    _check_number(where, "judgments", judged.lines, expected.judgments)
    _check_number(source.where("queries", 0, split), "queries with judgments", len(judged.qrels), expected.queries)
    skipped = judged.skipped
    if not source.shared_queries:
        skipped["queries_without_judgments"] = len(queries.keys() - judged.qrels.keys())
    qrels = {query: judged.qrels[query] for query in queries if query in judged.qrels}
    relevant = {query: sum(grade > 0 for grade in grades.values()) for query, grades in qrels.items()}
    asked = {query: queries[query] for query in qrels if queries[query] and relevant[query]}
    if not asked:
        raise UserError(f"{where}: no query of split {split} has a relevant document")
    if sum(relevant.values()) == judged.relevant_without_text:
        raise UserError(
            f"{where}: no relevant document of split {split} is among the documents; give documents and judgments of "
            "one collection"
        )
    write_jsonl(folder / "queries.jsonl", ({"id": query, "text": text} for query, text in asked.items()))
    write_qrels(folder / "qrels.txt", qrels)
    return {
        "queries": len(qrels),
        "queries_not_asked": len(qrels) - len(asked),
        "judgments": sum(map(len, qrels.values())),
        "relevant": sum(relevant.values()),
        "judgments_without_text": judged.without_text,
        "relevant_without_text": judged.relevant_without_text,
        "skipped": {reason: count for reason, count in sorted(skipped.items()) if count},
    }


def _read_queries(source: Source, split: str) -> dict[str, str]:
    queries: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for query in source.queries(split):
        _check_id(source, "queries", query.id, query.number, split)
        _check_length(query.text, source, "queries", query.number, split)
        if query.id in queries:
            here, there = (source.where("queries", n, split) for n in (query.number, numbers[query.id]))
            raise UserError(f"{here}: query id {query.id!r} is already used at {there}; keep one of them")
        # Topic files have one line for each query.
        queries[query.id] = _encodable(" ".join(query.text.split()))
        numbers[query.id] = query.number
    if not queries:
        raise UserError(f"{source.where('queries', 0, split)}: has no queries")
    return queries


@dataclass
class _Judged:
    """The judgments of a split.

    lines: how many lines of the source are used, repeated ones included. without_text, relevant_without_text: how many
    judgments, and how many relevant ones, are of documents that the collection lacks. skipped: what was left out or
    changed, by reason.
    """

    qrels: Qrels = field(default_factory=dict)
    lines: int = 0
    without_text: int = 0
    relevant_without_text: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def _read_judgments(source: Source, split: str, queries: dict[str, str], documents: TextStore) -> _Judged:
    found = _Judged()
    count = 0
    for judgment in source.judgments(split):
        count += 1
        check_grade(judgment.grade, f"{source.where('judgments', judgment.number, split)}: grade")
        grade = max(judgment.grade, 0)
        known = found.qrels.get(judgment.query, {}).get(judgment.document)
        problem = None
        if judgment.query not in queries:
            problem = "judgments_of_unknown_queries", f"query {judgment.query!r} is not among the queries"
        elif known is not None and known != grade:
            what = f"query {judgment.query!r}, document {judgment.document!r} has grade {known} already"
            problem = "judgments_contradicting", what
        if problem is not None:
            if not source.tolerant:
                place = source.where("judgments", judgment.number, split)
                raise UserError(f"{place}: {problem[1]}; correct or delete the line")
            found.skipped[problem[0]] += 1
            continue
        found.lines += 1
        if known is not None:
            found.skipped["judgments_repeated"] += 1
            continue
        found.skipped["grades_below_0"] += judgment.grade < 0
        if judgment.document not in documents:
            found.without_text += 1
            found.relevant_without_text += grade > 0
        found.qrels.setdefault(judgment.query, {})[judgment.document] = grade
    if count == 0:
        raise UserError(f"{source.where('judgments', 0, split)}: has no judgments")
    return found


def _check_id(source: Source, part: Part, id: str, number: int, split: str = "") -> None:
    what = ""
    if id.split() != [id]:
        what = "is empty" if not id else "contains white space, which TREC files cannot hold"
    elif len(id) > _LONGEST_ID:
        what = f"has more than {_LONGEST_ID:,} characters"
    elif _UNWRITABLE.search(id):
        what = "contains a character that files in UTF-8 cannot hold or tools do not read"
    if what:
        kind = "document" if part == "documents" else "query"
        raise UserError(
            f"{source.where(part, number, split)}: {kind} id {shown(id)} {what}; give it another id here and in the "
            "qrels"
        )


def _check_length(text: str, source: Source, part: Part, number: int, split: str = "") -> None:
    if len(text) > LONGEST_TEXT:
        raise UserError(
            f"{source.where(part, number, split)}: a text of {len(text):,} characters; no index accepts more "
            f"than {LONGEST_TEXT:,}; cut it or split it"
        )


def _encodable(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which JSON can hold but UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


def _report(statistics: dict[str, Any]) -> None:
    _log.info("%s documents%s", f"{statistics['documents']:,}", _left_out(statistics["documents_left_out"]))
    if statistics["documents_repeated"]:
        _log.warning("%s documents appear twice in the source", f"{statistics['documents_repeated']:,}")
    if statistics["documents_empty"]:
        _log.warning("%s documents have no text; they are kept", f"{statistics['documents_empty']:,}")
    for split, counts in statistics["splits"].items():
        _log.info(
            "split %s: %s queries, %s judgments, %s of them relevant%s",
            split,
            *(f"{counts[key]:,}" for key in ("queries", "judgments", "relevant")),
            _left_out(counts["skipped"]),
        )
        if counts["judgments_without_text"]:
            _log.warning(
                "split %s: %s judgments, %s of them relevant, are of documents that are not in the collection; "
                "evaluation has them, training does not",
                split,
                *(f"{counts[key]:,}" for key in ("judgments_without_text", "relevant_without_text")),
            )
        if counts["queries_not_asked"]:
            _log.warning(
                "split %s: %s queries have no text or no relevant document; they are not searched and count as 0",
                split,
                f"{counts['queries_not_asked']:,}",
            )


def _left_out(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items() if count)
    return f" (left out: {shown})" if shown else ""
