"""A small collection in BEIR's layout, for tests to damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

CORPUS = [
    {"_id": "d1", "title": "Hubble", "text": "a space telescope", "metadata": {"url": "u"}},
    {"_id": "d2", "title": "", "text": "l'été à Niamey"},
    {"_id": "d3", "title": "Mamba", "text": "state space model"},
]
QUERIES = [{"_id": "q1", "text": "space"}, {"_id": "q2", "text": "summer"}, {"_id": "q3", "text": "nothing"}]
QRELS = "query-id\tcorpus-id\tscore\nq2\td2\t2\nq1\td3\t1\nq1\td1\t1\nq1\td2\t0\n"


class Folder:
    """A folder in BEIR's layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "qrels").mkdir(parents=True)
        self.corpus(CORPUS)
        self.queries(QUERIES)
        self.qrels(QRELS)

    def corpus(self, records: list[dict[str, Any]] | bytes) -> None:
        """Replaces corpus.jsonl."""
        self._write("corpus.jsonl", records)

    def queries(self, records: list[dict[str, Any]] | bytes) -> None:
        """Replaces queries.jsonl."""
        self._write("queries.jsonl", records)

    def qrels(self, text: str | bytes, split: str = "test") -> None:
        """Replaces qrels/SPLIT.tsv."""
        (self.path / f"qrels/{split}.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())

    def _write(self, name: str, records: list[dict[str, Any]] | bytes) -> None:
        if not isinstance(records, bytes):
            records = "".join(json.dumps(record) + "\n" for record in records).encode()
        (self.path / name).write_bytes(records)


@pytest.fixture
def beir(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "beir")


@pytest.fixture
def whole() -> dict[str, Any]:
    """The statistics of a split without missing texts or judgments."""
    counts = {"queries": 1, "queries_not_asked": 0, "judgments_without_text": 0, "relevant_without_text": 0}
    return counts | {"skipped": {}}
