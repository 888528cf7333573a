"""Collections in a local folder in BEIR's layout.

Its files are corpus.jsonl {"_id", "title", "text", ...}, queries.jsonl {"_id", "text"} and qrels/SPLIT.tsv with the
columns query-id, corpus-id and score. The header of the qrels is optional.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ssmrank.collections.source import Document, Judgment, Part, Query, join_fields
from ssmrank.config.collections import FolderCollection
from ssmrank.errors import UserError, shown
from ssmrank.io.checksum import verify_sha256
from ssmrank.io.files import BYTE_ORDER_MARK, decode, lines_up_to, open_file
from ssmrank.io.jsonl import read_jsonl
from ssmrank.io.trec import LONGEST_LINE

_HEADINGS = {"score", "grade", "label", "relevance", "rel", "relevancy", "judgment", "judgement", "rating"}
"""What a header may call the last column; any other word there is taken for a mistyped grade."""

_WHOLE = re.compile(r"[-+]?[0-9]{1,30}(\.0*)?")


class FolderSource:
    """A folder in BEIR's layout as a `Source`."""

    tolerant = False
    shared_queries = True

    def __init__(
        self, settings: FolderCollection, text_fields: Sequence[str], query_fields: Sequence[str] = ("text",)
    ) -> None:
        self.path = Path(settings.path)
        self.text_fields = text_fields
        self.query_fields = query_fields
        self.left_out: dict[str, int] = {}
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such folder; correct path in params.yaml")
        for name, expected in settings.sha256.items():
            if not (self.path / name).is_file():
                raise UserError(f"{self.path / name}: no such file, but sha256 in params.yaml names it")
            verify_sha256(self.path / name, expected)

    def documents(self) -> Iterator[Document]:
        """The lines of corpus.jsonl."""
        path = self.path / "corpus.jsonl"
        for number, record in read_jsonl(path):
            where = f"{path}:{number}"
            yield Document(number, _id(record, where), join_fields(record, self.text_fields, where))

    def queries(self, split: str) -> Iterator[Query]:
        """All lines of queries.jsonl, whatever the split."""
        path = self.path / "queries.jsonl"
        for number, record in read_jsonl(path):
            where = f"{path}:{number}"
            yield Query(number, _id(record, where), join_fields(record, self.query_fields, where, "query_fields"))

    def judgments(self, split: str) -> Iterator[Judgment]:
        """The lines of qrels/SPLIT.tsv."""
        path = self._qrels(split)
        if not os.path.lexists(path):
            there = ", ".join(sorted(found.stem for found in path.parent.glob("*.tsv"))) or "none"
            raise UserError(f"{path}: no such file; existing splits: {there}")
        with open_file(path) as stream:
            for number, raw in lines_up_to(stream, path, LONGEST_LINE):
                where = f"{path}:{number}"
                line = decode(raw, where).rstrip("\r\n")
                if not line.strip():
                    continue
                if line.startswith(BYTE_ORDER_MARK):
                    raise UserError(f"{where}: begins with a byte order mark; save the file as UTF-8 without one")
                fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
                if len(fields) != 3:
                    raise UserError(
                        f"{path}:{number}: {len(fields)} fields, but `query-id corpus-id score` (by tabs) has 3"
                    )
                if number == 1 and fields[2].lower() in _HEADINGS:
                    continue
                yield Judgment(number, fields[0], fields[1], _grade(fields[2], where))

    def where(self, part: Part, number: int, split: str = "") -> str:
        """File and line."""
        path = {"documents": self.path / "corpus.jsonl", "queries": self.path / "queries.jsonl"}.get(part)
        path = path or self._qrels(split)
        return f"{path}:{number}" if number else str(path)

    def _qrels(self, split: str) -> Path:
        return self.path / "qrels" / f"{split}.tsv"


def _id(record: dict[str, Any], where: str) -> str:
    id = record.get("_id", record.get("id"))
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise UserError(f'{where}: key "_id" is missing or not a string; each line needs one')
    return str(id)


def _grade(text: str, where: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise UserError(f"{where}: score {shown(text)} is not a whole number")
    return int(text.partition(".")[0])
