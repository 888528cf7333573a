"""Scores of pairs of texts, as other libraries give them: one query and one document a row."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ssmrank.api import PassageWindows, Progress, Reranker
from ssmrank.errors import UserError


def reranker_of(model: Reranker | str | os.PathLike[str], options: Mapping[str, Any]) -> Reranker:
    """The given reranker, or the one that `Reranker.from_pretrained` loads with the options.

    Raises UserError for options of a reranker that is loaded already.
    """
    if not isinstance(model, Reranker):
        return Reranker.from_pretrained(model, **options)
    if options:
        raise UserError(f"{', '.join(options)}: the reranker is loaded already; give them where it is loaded")
    return model


def score_rows(
    reranker: Reranker,
    queries: Sequence[str],
    documents: Sequence[str],
    passages: PassageWindows | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """The score of each row's document for its query.

    All rows are planned together: equal rows are scored once, and a causal model computes a document that several
    queries share only once.
    """
    query_ids, document_ids = _numbered(queries), _numbered(documents)
    rows = [(query_ids[query], document_ids[document]) for query, document in zip(queries, documents, strict=True)]
    candidates: dict[str, list[str]] = {}
    for query, document in dict.fromkeys(rows):
        candidates.setdefault(query, []).append(document)
    found = reranker.rank_many(
        {number: text for text, number in query_ids.items()},
        candidates,
        {number: text for text, number in document_ids.items()},
        passages=passages,
        progress=progress,
    )
    scores = {(query, document): score for query, ranking in found.items() for document, score in ranking}
    return [scores[row] for row in rows]


def _numbered(texts: Sequence[str]) -> dict[str, str]:
    """An id for each different text."""
    return {text: str(number) for number, text in enumerate(dict.fromkeys(texts))}
