"""What every source of a collection offers to the writer of the canonical form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from ssmrank.errors import UserError

Part = Literal["documents", "queries", "judgments"]


class Document(NamedTuple):
    """One document; `number` is its line or position in the source, from 1; `extra` are keys kept beside the text."""

    number: int
    id: str
    text: str
    extra: Mapping[str, str] = {}


class Query(NamedTuple):
    """One query; `number` as in Document."""

    number: int
    id: str
    text: str


class Judgment(NamedTuple):
    """The grade of a document for a query, relevant above 0; `number` as in Document."""

    number: int
    query: str
    document: str
    grade: int


class Source(Protocol):
    """Documents once, queries and judgments for each split, all streamed."""

    tolerant: bool
    """False: a judgment of an unknown query, a grade above 0 of an unknown document, or two grades for one pair is
    an error (files of the user's own). True: such judgments are left out with a count (published collections, where
    they occur)."""

    shared_queries: bool
    """Whether the queries of all splits come together, so that unjudged ones are simply those of other splits."""

    left_out: dict[str, int]
    """Documents that the source itself leaves out, by reason; complete once `documents` is used up."""

    def documents(self) -> Iterator[Document]:
        """All documents, in an order that does not change."""
        ...

    def queries(self, split: str) -> Iterator[Query]:
        """The queries of a split, or of all (`shared_queries`)."""
        ...

    def judgments(self, split: str) -> Iterator[Judgment]:
        """The judgments of a split."""
        ...

    def where(self, part: Part, number: int, split: str = "") -> str:
        """The place of a record, for error messages: file and line, or what stands for it."""
        ...


def join_fields(record: Mapping[str, Any], fields: Sequence[str], where: str, key: str = "text_fields") -> str:
    """The fields of a document or query that are there and not empty, joined by a space.

    Lists are joined by a space, null is empty. Raises UserError where none of the fields is a key of the record, or
    one is an object.
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
            raise UserError(f"{where}: field {field!r} is {value}, no text; write null or a string")
        text = "" if value is None else str(value).strip()
        if text:
            parts.append(text)
    if not found:
        raise UserError(
            f"{where}: no field {' or '.join(map(repr, fields))}, only {', '.join(map(repr, record))}; "
            f"correct {key} in params.yaml"
        )
    return " ".join(parts)
