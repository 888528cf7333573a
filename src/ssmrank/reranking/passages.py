"""MaxP: a document is scored as the best of its passages (Dai & Callan 2019).

A passage is a window over the document's tokens, and takes the place of the document in the template. Windows start a
stride apart, and the last one ends where the document ends.
"""

from __future__ import annotations

import numpy as np

from ssmrank.io.pairs import Pairs
from ssmrank.models.packing import places_of
from ssmrank.models.templates import Template
from ssmrank.reranking.sequences import Tokens


class PassageTokens:
    """The document sides of passages, int32 ids, by the passage ids that `id_of` makes."""

    def __init__(self, template: Template, documents: Tokens, length: int, stride: int) -> None:
        self._documents, self._length, self._stride = documents, length, stride
        self._head = template.document_head()
        self._tail = np.asarray(template.separator if template.query_follows else (), dtype=np.int32)

    def count(self, document: str) -> int:
        """The number of passages of a document, at least one."""
        return len(self._starts(document))

    def __getitem__(self, key: str) -> np.ndarray:
        document, _, number = key.rpartition("#")
        tokens = self._documents[document]
        start = self._starts(document)[int(number)]
        first, last = self._body(tokens)
        if last - first <= self._length:
            return tokens
        body = tokens[first + start : first + start + self._length]
        return np.concatenate([self._head, body, self._tail])

    def expand(self, pairs: Pairs) -> tuple[Pairs, np.ndarray]:
        """The pairs of all passages, and for each the index of its document's pair in `pairs`, int64."""
        counts = np.array([self.count(document) for document in pairs.documents], dtype=np.int64)
        passages = [
            id_of(id, n) for id, count in zip(pairs.documents, counts.tolist(), strict=True) for n in range(count)
        ]
        own = counts[pairs.document]
        owners = np.repeat(np.arange(len(pairs)), own)
        starts = (np.cumsum(counts) - counts)[pairs.document]
        return Pairs(pairs.queries, passages, pairs.query[owners], places_of(starts, own)), owners

    def _starts(self, document: str) -> list[int]:
        first, last = self._body(self._documents[document])
        size = last - first
        if size <= self._length:
            return [0]
        return [*range(0, size - self._length, self._stride), size - self._length]

    def _body(self, tokens: np.ndarray) -> tuple[int, int]:
        """Where the text's own tokens start and end."""
        return min(len(self._head), len(tokens)), max(len(tokens) - len(self._tail), 0)


def id_of(document: str, passage: int) -> str:
    """The id of a passage."""
    return f"{document}#{passage}"


def best_passage(scores: np.ndarray, owners: np.ndarray, count: int) -> np.ndarray:
    """The highest score of each of `count` pairs, float32; owners: int64, the pair of each score."""
    best = np.full(count, -np.inf, dtype=np.float32)
    np.maximum.at(best, owners, scores)
    # NaN must stay visible, so that `check_scores` finds it.
    best[owners[np.isnan(scores)]] = np.nan
    return best
