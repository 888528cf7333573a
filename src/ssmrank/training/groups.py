"""Training groups as token sequences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from ssmrank.errors import UserError
from ssmrank.io.jsonl import read_jsonl
from ssmrank.io.texts import Texts
from ssmrank.models.templates import LongQueries, Template
from ssmrank.models.tokens import TokenStore

_LARGEST_SCORE = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Group:
    """The ids of a query, a relevant document and its negatives, with a teacher's scores of the documents, if any."""

    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...] | None = None


def read_groups(path: str | Path, negatives: int, distils: bool = False) -> list[Group]:
    """The groups of a negatives file. With `distils`, each group has its teacher's scores.

    Raises UserError for a file without groups, and for a line that lacks a key, has another number of negatives, or
    does not have one finite score for each document.
    """
    groups = []
    for number, record in read_jsonl(path):
        where = f"{path}:{number}"
        for key in ("query", "positive", "negatives"):
            if key not in record:
                raise UserError(f"{where}: key {key!r} is missing; make the file with `ssmrank negatives`")
        ids = [record["query"], record["positive"]]
        ids += record["negatives"] if isinstance(record["negatives"], list) else [None]
        if not all(isinstance(id, str) for id in ids):
            raise UserError(f'{where}: "query" and "positive" must be strings, "negatives" a list of strings: ids')
        group = Group(ids[0], tuple(ids[1:]))
        if len(group.documents) != 1 + negatives:
            raise UserError(f"{where}: {len(group.documents) - 1} negatives, but the settings say {negatives}")
        if distils:
            group = replace(group, scores=_teacher_scores(record, len(group.documents), where))
        groups.append(group)
    if not groups:
        raise UserError(f"{path}: has no groups; check section negatives and the collection's qrels")
    return groups


def _teacher_scores(record: Mapping[str, Any], documents: int, where: str) -> tuple[float, ...]:
    scores = record.get("scores")
    if scores is None:
        raise UserError(
            f'{where}: key "scores" is missing; a distillation loss needs a teacher\'s score of each document: set '
            "teacher in the section of trainings, or choose another loss"
        )
    numbers = isinstance(scores, list) and all(
        isinstance(score, int | float) and not isinstance(score, bool) and abs(score) <= _LARGEST_SCORE
        for score in scores
    )
    if not numbers or len(scores) != documents:
        raise UserError(f'{where}: "scores" must be a list of {documents} finite numbers, one for each document')
    return tuple(float(score) for score in scores)


class TokenizedGroups(ABC):
    """What groups of rerankers and of bi-encoders share: each text is tokenized once, before the loop."""

    def __init__(self, groups: Sequence[Group], queries: Mapping[str, str]) -> None:
        """Raises UserError for a query that `queries` lacks."""
        self.groups = groups
        self._asked = sorted({group.query for group in groups})
        missing = next((query for query in self._asked if query not in queries), None)
        if missing is not None:
            raise UserError(f"query {missing}: named by the training groups, but not in the collection's split")

    def __len__(self) -> int:
        return len(self.groups)

    def teacher(self, indices: Sequence[int]) -> torch.Tensor | None:
        """The teacher's scores of groups, float32 [len(indices), 1 + negatives]; None if a group has none."""
        scores = [self.groups[index].scores for index in indices]
        return None if any(row is None for row in scores) else torch.tensor(scores)

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each group, int64 [groups]. The first access goes through all groups."""
        return np.array([self.length(index) for index in range(len(self))], dtype=np.int64)

    @abstractmethod
    def length(self, index: int) -> int:
        """The number of tokens of a group."""

    def _tokens(
        self, documents: Texts | TokenStore, tokenize: Callable[[Sequence[str]], Sequence[np.ndarray]]
    ) -> Mapping[str, np.ndarray] | TokenStore:
        """The tokens of the groups' documents, by id."""
        if isinstance(documents, TokenStore):
            return documents
        ids = sorted({document for group in self.groups for document in group.documents})
        return dict(zip(ids, tokenize([documents[document] for document in ids]), strict=True))


class GroupSequences(TokenizedGroups):
    """Token sequences of groups.

    `sequences[i]` gives the 1 + negatives sequences of group i, the relevant document first. `documents` are texts, or
    their tokens from `token_store`. Raises UserError for a query that `queries` lacks, or that must not be cut.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        template: Template,
        queries: Mapping[str, str],
        documents: Texts | TokenStore,
        max_length: int,
        long_queries: LongQueries = "cut",
    ) -> None:
        super().__init__(groups, queries)
        self._template = template
        self._max_length = max_length
        asked = template.tokenize_queries([queries[query] for query in self._asked])
        self.queries_cut = template.count_long(asked, max_length)
        """How many queries are cut because they leave no room for a document."""
        self._queries = dict(
            zip(self._asked, template.fit_queries(asked, max_length, self._asked, long_queries), strict=True)
        )
        self._documents = self._tokens(documents, template.tokenize_documents)

    def __getitem__(self, index: int) -> list[np.ndarray]:
        group = self.groups[index]
        query = self._queries[group.query]
        return [
            self._template.join(query, self._documents[document], self._max_length, group.query)
            for document in group.documents
        ]

    @override
    def length(self, index: int) -> int:
        group = self.groups[index]
        asked, length = len(self._queries[group.query]), self._template.length
        return sum(length(asked, len(self._documents[document]), self._max_length) for document in group.documents)
