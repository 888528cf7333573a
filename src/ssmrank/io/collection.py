"""Where the files of a collection's canonical folder are (`ssmrank.collections.canonical` writes them)."""

from __future__ import annotations

from pathlib import Path


def documents_file(collection: Path) -> Path:
    """The collection's texts."""
    return collection / "documents.jsonl"


def queries_file(collection: Path, split: str) -> Path:
    """The queries of a split that are asked."""
    return split_folder(collection, split) / "queries.jsonl"


def split_folder(collection: Path, split: str) -> Path:
    """The folder of a split's queries and qrels."""
    return collection / "splits" / split
