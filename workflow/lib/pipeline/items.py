"""What rules make. Each item is named by the wildcards of its path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, TypeVar


class Index(NamedTuple):
    """An index."""

    collection: str
    stemmer: str


class Embedded(NamedTuple):
    """Vectors of a collection's documents."""

    collection: str
    encoder: str


class VectorIndex(NamedTuple):
    """An approximate index of a collection's vectors."""

    collection: str
    retriever: str


class FirstStage(NamedTuple):
    """A first-stage run."""

    collection: str
    split: str
    retriever: str


class Sample(NamedTuple):
    """Negatives for the queries of a split."""

    collection: str
    split: str
    negatives: str


class Taught(NamedTuple):
    """Negatives with a teacher's scores."""

    collection: str
    split: str
    negatives: str
    teacher: str


class Trained(NamedTuple):
    """A checkpoint; `training` includes the seed unless it is the training's own."""

    training: str
    model: str


class Reranked(NamedTuple):
    """A reranked run."""

    collection: str
    split: str
    reranking: str
    training: str
    model: str


class Fused(NamedTuple):
    """A reranked run that is fused with others."""

    collection: str
    split: str
    reranking: str
    training: str
    model: str
    fusion: str


class Pretrained(NamedTuple):
    """A pretrained language model."""

    pretraining: str
    model: str


T = TypeVar("T", bound=tuple)


def once(items: Iterable[T]) -> list[T]:
    """The items in their order, without duplicates."""
    return list(dict.fromkeys(items))


def fill(pattern: str, items: Iterable[tuple]) -> list[str]:
    """The pattern filled from each named tuple."""
    return [pattern.format(**item._asdict()) for item in items]  # type: ignore[attr-defined]


def any_of(names: Iterable[str]) -> str:
    """A regular expression that matches one of the names; without names, it matches nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"
