"""The texts of which a collection is made: a part of a corpus, or the documents of another collection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ssmrank.collections.corpus import Text, corpus_files, is_held_out, read_texts
from ssmrank.config.corpora import Corpus
from ssmrank.io.collection import documents_file
from ssmrank.io.jsonl import read_jsonl


class NumberedTexts(Protocol):
    """Numbered texts, which can be read several times."""

    def __iter__(self) -> Iterator[tuple[int, Text]]:
        """The number (from 1) and the text."""
        ...

    def where(self, number: int) -> str:
        """File and line of a text."""
        ...


class CorpusPart:
    """The training part or the held-out part of a corpus; texts are numbered through all files."""

    def __init__(self, corpus: Corpus, part: str) -> None:
        self._corpus, self._held_out = corpus, part == "held-out"
        self._files = corpus_files(corpus)
        self._first: list[int] = []
        """For each file read so far, the number of texts before it."""

    def __iter__(self) -> Iterator[tuple[int, Text]]:
        first, before = [], 0
        for file in self._files:
            first.append(before)
            self._first = list(first)
            last = 0
            for text in read_texts(file):
                last = text.number
                if is_held_out(text.id, self._corpus.held_out) == self._held_out:
                    yield before + text.number, text
            before += last

    def where(self, number: int) -> str:
        """File and line."""
        for file, before in reversed(list(zip(self._files, self._first, strict=False))):
            if number > before:
                return f"{file}:{number - before}"
        return self._corpus.path


class CollectionTexts:
    """The non-empty documents of a collection in canonical form; they have no titles."""

    def __init__(self, folder: Path) -> None:
        self._path = documents_file(folder)

    def __iter__(self) -> Iterator[tuple[int, Text]]:
        for number, record in read_jsonl(self._path):
            if record["text"]:
                yield number, Text(number, record["id"], "", record["text"])

    def where(self, number: int) -> str:
        """File and line."""
        return f"{self._path}:{number}"
