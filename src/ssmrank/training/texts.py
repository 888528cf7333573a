"""Training groups of a bi-encoder: the texts of a query and its documents as sequences of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from ssmrank.io.texts import Texts
from ssmrank.io.trec import Qrels
from ssmrank.models.bi_encoder import BiEncoderModel
from ssmrank.models.tokens import TokenStore
from ssmrank.training.contrastive import GroupIds
from ssmrank.training.groups import Group, TokenizedGroups


@dataclass(frozen=True)
class TextGroup:
    """A group's ids, its query's sequence, and those of its documents."""

    ids: GroupIds
    query: np.ndarray
    documents: list[np.ndarray]


class TextGroups(TokenizedGroups):
    """Groups as a bi-encoder reads them.

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
        super().__init__(groups, queries)
        self._template, self._max_length = model.template, model.settings.max_length
        asked = self._asked
        self._queries = dict(zip(asked, model.query_sequences([queries[query] for query in asked]), strict=True))
        self._relevant = {
            query: frozenset(id for id, grade in qrels.get(query, {}).items() if grade > 0) for query in asked
        }
        self._documents = self._tokens(documents, model.template.tokenize_documents)

    def __getitem__(self, index: int) -> TextGroup:
        group = self.groups[index]
        ids = GroupIds(group.query, group.documents, self._relevant[group.query])
        sequences = [self._template.join(self._documents[id], self._max_length) for id in group.documents]
        return TextGroup(ids, self._queries[group.query], sequences)

    @override
    def length(self, index: int) -> int:
        group, around = self.groups[index], self._template.around
        documents = sum(min(self._max_length, around + len(self._documents[id])) for id in group.documents)
        return len(self._queries[group.query]) + documents
