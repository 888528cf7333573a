"""Counts of real collections, if there is a folder of them (SSMRANK_SHARED, or `shared` beside the project)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssmrank.collections.canonical import write_collection
from ssmrank.collections.folder import FolderSource
from ssmrank.config.collections import FolderCollection
from ssmrank.io.texts import TextStore

SHARED = Path(os.environ.get("SSMRANK_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "collections"


@pytest.mark.parametrize(
    ("name", "documents", "empty", "splits"),
    [
        ("nfcorpus", 3633, 0, {"train": (2590, 110575), "dev": (324, 11385), "test": (323, 12334)}),
        ("scifact", 5183, 0, {"train": (809, 919), "test": (300, 339)}),
        ("cranfield", 1400, 2, {"test": (225, 1837)}),
        ("vaswani", 11429, 0, {"test": (93, 2083)}),
        # 3,566 of the 5,158 judgments of grade 0 are for passages without text; evaluation still uses them.
        ("msmarco-dl19", 15939, 0, {"test": (43, 4102 + 5158)}),
    ],
)
def test_counts(name: str, documents: int, empty: int, splits: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not at hand")
    source = FolderSource(FolderCollection(kind="folder", path=str(folder)), ["title", "text"])
    statistics = write_collection(source, list(splits), tmp_path / "out")
    assert (statistics["documents"], statistics["documents_empty"]) == (documents, empty)
    found = {split: (counts["queries"], counts["judgments"]) for split, counts in statistics["splits"].items()}
    assert found == splits
    store = TextStore(tmp_path / "out/documents.jsonl")
    assert len(store) == documents
    assert sum(id in store for id in store.ids()) == documents
