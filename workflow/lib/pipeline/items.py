"""What rules make, named by the wildcards of its path."""

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
    """An approximate index of such vectors."""

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
    """Such negatives with a teacher's scores."""

    collection: str
    split: str
    negatives: str
    teacher: str


class Trained(NamedTuple):
    """A checkpoint; `training` names the seed where it is not the training's own."""

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
    """The items in their order, each one time."""
    return list(dict.fromkeys(items))


def fill(pattern: str, items: Iterable[tuple]) -> list[str]:
    """The pattern filled from each named tuple."""
    return [pattern.format(**item._asdict()) for item in items]  # type: ignore[attr-defined]


def any_of(names: Iterable[str]) -> str:
    """A regular expression for one of the names; nothing matches that of none."""
    return "|".join(map(re.escape, names)) or "(?!)"
