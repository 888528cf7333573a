"""Training groups of a bi-encoder: the texts of a query and its documents as sequences of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ssmrank.errors import UserError
from ssmrank.io.texts import Texts
from ssmrank.io.trec import Qrels
from ssmrank.models.bi_encoder import BiEncoderModel
from ssmrank.models.tokens import TokenStore
from ssmrank.training.contrastive import GroupIds
from ssmrank.training.groups import Group, teacher_scores


@dataclass(frozen=True)
class TextGroup:
    """A group's ids, its query's sequence, and those of its documents."""

    ids: GroupIds
    query: np.ndarray
    documents: list[np.ndarray]


class TextGroups:
    """Groups as a bi-encoder reads them; each text is tokenized once, before the loop.

    `texts[i]` gives group i. `documents` are texts, or their tokens from `token_store`; `qrels` say which documents are
    relevant for a query. Raises UserError for a query that `queries` lacks.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        model: BiEncoderModel,
        queries: Mapping[str, str],
        documents: Texts | TokenStore,
        qrels: Qrels,
    ) -> None:
        self.groups = groups
        template = model.template
        self._template, self._max_length = template, model.settings.max_length
        asked = sorted({group.query for group in groups})
        missing = next((query for query in asked if query not in queries), None)
        if missing is not None:
            raise UserError(f"query {missing}: named by the training groups, but not in the collection's split")
        self._queries = dict(zip(asked, model.query_sequences([queries[query] for query in asked]), strict=True))
        self._relevant = {
            query: frozenset(id for id, grade in qrels.get(query, {}).items() if grade > 0) for query in asked
        }
        self._documents: Mapping[str, np.ndarray] | TokenStore
        if isinstance(documents, TokenStore):
            self._documents = documents
        else:
            ids = sorted({document for group in groups for document in group.documents})
            tokens = template.tokenize_documents([documents[document] for document in ids])
            self._documents = dict(zip(ids, tokens, strict=True))

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> TextGroup:
        group = self.groups[index]
        ids = GroupIds(group.query, group.documents, self._relevant[group.query])
        sequences = [self._template.join(self._documents[id], self._max_length) for id in group.documents]
        return TextGroup(ids, self._queries[group.query], sequences)

    def teacher(self, indices: Sequence[int]) -> torch.Tensor | None:
        """The teacher's scores of groups, float32 [len(indices), 1 + negatives]; None if a group has none."""
        return teacher_scores(self.groups, indices)

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each group, int64 [groups]. The first access goes through all groups."""
        return np.array([self.length(index) for index in range(len(self))], dtype=np.int64)

    def length(self, index: int) -> int:
        """The number of tokens of a group."""
        group, around = self.groups[index], self._template.around
        documents = sum(min(self._max_length, around + len(self._documents[id])) for id in group.documents)
        return len(self._queries[group.query]) + documents
