"""Semanlink: a researcher's bookmarks, tagged by hand over many years.

The documents are the bookmarks. A query is the label of a tag, and its relevant documents are the bookmarks with this
tag. The data are in a package archive: `docs.json` (a list of bookmarks) and `tags.json` (tags by URI).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ssmrank.collections.source import Document, Judgment, Part, Query, join_fields
from ssmrank.config.collections import SemanlinkSource as Settings
from ssmrank.errors import UserError
from ssmrank.io.archive import fetch_archive
from ssmrank.io.archive_members import read_member

SPLITS = ("train", "test")


class SemanlinkSource:
    """Bookmarks and tags as a `Source`.

    A bookmark is left out if it has no title (its first text field), no tag, or fewer than `min_words` words (split at
    white space). A tag is a query if it has a label and between `min_relevant` and `max_relevant` of the remaining
    bookmarks. Its split depends only on a hash of its URI. Every judgment has grade 1.
    """

    tolerant = False
    shared_queries = False

    def __init__(self, settings: Settings, text_fields: Sequence[str], archives: str | Path) -> None:
        self.settings = settings
        self.left_out: dict[str, int] = {}
        self._archive = fetch_archive(settings, archives)
        self._documents, relevant = self._read_documents(text_fields)
        self._queries, self._relevant = self._read_tags(relevant)

    def documents(self) -> Iterator[Document]:
        """The bookmarks that are not left out."""
        yield from self._documents

    def queries(self, split: str) -> Iterator[Query]:
        """The labels of the split's tags, in the order of their ids."""
        if split not in SPLITS:
            raise UserError(f"splits: Semanlink has no split {split!r}, only {' and '.join(SPLITS)}")
        yield from self._queries[split]

    def judgments(self, split: str) -> Iterator[Judgment]:
        """For each query the bookmarks with its tag."""
        for query in self._queries[split]:
            for document in self._relevant[query.id]:
                yield Judgment(query.number, query.id, document, 1)

    def where(self, part: Part, number: int, split: str = "") -> str:
        """The archive, the file in it and the position of the record."""
        if part == "documents":
            return self._where("docs.json", f"document number {number}" if number else "")
        return self._where("tags.json", f"tag number {number}" if number else "")

    def _read_documents(self, text_fields: Sequence[str]) -> tuple[list[Document], dict[str, list[str]]]:
        """The documents that are not left out, and for the URI of each tag the ids of those that have it."""
        records = self._load("docs.json", list)
        kept: list[Document] = []
        relevant: dict[str, list[str]] = {}
        left_out: Counter[str] = Counter(untitled=0, short=0, untagged=0)
        for number, record in enumerate(records, start=1):
            where = self.where("documents", number)
            if not isinstance(record, dict):
                raise UserError(f"{where}: is not a JSON object; this is not the archive of Semanlink")
            url, tags = record.get("document"), record.get("tag")
            if not isinstance(url, str) or not isinstance(tags, list):
                raise UserError(f'{where}: needs a string "document" and a list "tag"; is this the right archive?')
            text = join_fields(record, text_fields, where)
            if not str(record.get(text_fields[0]) or "").strip():
                left_out["untitled"] += 1
            elif len(text.split()) < self.settings.min_words:
                left_out["short"] += 1
            elif not tags:
                left_out["untagged"] += 1
            else:
                id = document_id(url)
                kept.append(Document(number, id, text, {"url": url}))
                for tag in dict.fromkeys(tags):
                    relevant.setdefault(tag, []).append(id)
        self.left_out = dict(left_out)
        return kept, relevant

    def _read_tags(self, relevant: dict[str, list[str]]) -> tuple[dict[str, list[Query]], dict[str, list[str]]]:
        """The queries of each split, sorted by id, and the relevant documents of each query."""
        queries: dict[str, list[Query]] = {split: [] for split in SPLITS}
        documents: dict[str, list[str]] = {}
        for number, (uri, record) in enumerate(self._load("tags.json", dict).items(), start=1):
            found = relevant.get(uri, [])
            label = next(iter(record.get("prefLabel") or []), "")
            if label and self.settings.min_relevant <= len(found) <= self.settings.max_relevant:
                id = uri.rsplit("/", 1)[-1]
                split = "train" if position(uri) < self.settings.train_share else "test"
                queries[split].append(Query(number, id, label))
                documents[id] = found
        for found_queries in queries.values():
            found_queries.sort(key=lambda query: query.id)
        return queries, documents

    def _load(self, name: str, kind: type) -> Any:
        try:
            data = json.loads(read_member(self._archive, f"{self.settings.folder}/{name}"))
        except ValueError as error:
            raise UserError(f"{self._where(name)}: malformed JSON or not UTF-8 ({error})") from error
        if not isinstance(data, kind):
            raise UserError(f"{self._where(name)}: is not a {kind.__name__}; this is not the archive of Semanlink")
        return data

    def _where(self, name: str, detail: str = "") -> str:
        return f"{self._archive}, {name}{', ' if detail else ''}{detail}"


def document_id(url: str) -> str:
    """A short id that depends only on the URL; the letter in front keeps tools from reading it as a number."""
    return "d" + hashlib.sha256(url.encode("utf-8")).hexdigest()[:11]


def position(text: str) -> float:
    """A number in [0, 1) that depends only on the text, uniform over texts."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:6], "big") / 2**48
