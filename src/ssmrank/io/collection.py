"""Where the files of a collection's canonical folder are (`ssmrank.collections.canonical` writes them)."""

from __future__ import annotations

from pathlib import Path


def documents_file(collection: Path) -> Path:
    """The collection's texts."""
    return collection / "documents.jsonl"


def queries_file(collection: Path, split: str) -> Path:
    """The queries of a split that are asked."""
    return split_folder(collection, split) / "queries.jsonl"


def qrels_file(collection: Path, split: str) -> Path:
    """The judgments of a split."""
    return split_folder(collection, split) / "qrels.txt"


def collection_of(queries: Path) -> tuple[Path, str] | tuple[None, None]:
    """The collection and split whose queries a file has; None for a file from elsewhere."""
    split = queries.parent
    return (split.parents[1], split.name) if split.parent.name == "splits" else (None, None)


def split_folder(collection: Path, split: str) -> Path:
    """The folder of a split's queries and qrels."""
    return collection / "splits" / split
