"""The interface of a collection's source, from which the canonical form is written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from ssmrank.errors import UserError

Part = Literal["documents", "queries", "judgments"]


class Document(NamedTuple):
    """One document. number: its line or position in the source, from 1. extra: keys that are kept beside the text."""

    number: int
    id: str
    text: str
    extra: Mapping[str, str] = {}


class Query(NamedTuple):
    """One query; `number` is as in Document."""

    number: int
    id: str
    text: str


class Judgment(NamedTuple):
    """The grade of a document for a query; above 0 it is relevant. `number` is as in Document."""

    number: int
    query: str
    document: str
    grade: int


class Source(Protocol):
    """The documents, and the queries and judgments of each split, all streamed."""

    tolerant: bool
    """Whether judgments of unknown queries and second grades of a pair are left out and counted, and repeated documents
    dropped. Published collections have some of these. In the user's own files they are errors, so False there."""

    shared_queries: bool
    """Whether `queries` gives the queries of all splits at once; unjudged ones then belong to other splits."""

    left_out: dict[str, int]
    """How many documents the source itself leaves out, by reason; complete after `documents` has been exhausted."""

    def documents(self) -> Iterator[Document]:
        """All documents, always in the same order."""
        ...

    def queries(self, split: str) -> Iterator[Query]:
        """The queries of a split, or of all splits (`shared_queries`)."""
        ...

    def judgments(self, split: str) -> Iterator[Judgment]:
        """The judgments of a split."""
        ...

    def where(self, part: Part, number: int, split: str = "") -> str:
        """The place of a record for error messages: file and line, or an equivalent. Number 0: the part as a whole."""
        ...


def join_fields(record: Mapping[str, Any], fields: Sequence[str], where: str, key: str = "text_fields") -> str:
    """The non-empty fields of a document or query, joined by a space.

    The items of a list are joined by a space; null is empty. Raises UserError if the record has none of the fields, or
    if one is an object or a number that is not finite. key: the setting that `fields` comes from, for the message.
    """
    parts: list[str] = []
    found = False
    for field in fields:
        if field not in record:
            continue
        found = True
        value = record[field]
        if isinstance(value, list):
            value = " ".join(str(item) for item in value)
        elif isinstance(value, Mapping):
            raise UserError(f"{where}: field {field!r} is an object where text is needed; correct {key}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}: field {field!r} is {value}, not a text; write null or a string")
        text = "" if value is None else str(value).strip()
        if text:
            parts.append(text)
    if not found:
        raise UserError(
            f"{where}: no field {' or '.join(map(repr, fields))}, only {', '.join(map(repr, record))}; "
            f"correct {key} in params.yaml"
        )
    return " ".join(parts)
