"""The loss of bi-encoders over the vectors of a whole step.

Row i is a group: its query is compared with documents of the step, each of which is one column. InfoNCE (van den Oord
et al. 2018) is the cross-entropy of the relevant document's column. Widths are those of Matryoshka representations
(Kusupati et al. 2022): the loss is computed from the first numbers of the vectors too, and summed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ssmrank.models.bi_encoder import vectors_of
from ssmrank.training.loss import kl_divergence


class GroupIds(NamedTuple):
    """The ids of a query, of its group's documents, the relevant one first, and all ids that are relevant for it."""

    query: str
    documents: tuple[str, ...]
    relevant: frozenset[str]


@dataclass(frozen=True)
class Columns:
    """Where the documents of a step's groups are.

    queries: int64 [G], the row of each group's query among the query vectors; documents: int64 [G, 1 + n], the columns
    of its documents; allowed: bool [G, D], what its query is compared with.
    """

    queries: torch.Tensor
    documents: torch.Tensor
    allowed: torch.Tensor

    @classmethod
    def of(
        cls,
        groups: Sequence[GroupIds],
        queries: Mapping[str, int],
        documents: Mapping[str, int],
        in_batch: bool,
        device: torch.device,
    ) -> Columns:
        """The columns of groups, given the rows of queries and the columns of documents by id.

        Documents that are relevant for the query, other than its group's first, are no negatives. Without `in_batch`,
        neither are documents of other groups.
        """
        own = torch.tensor([[documents[id] for id in group.documents] for group in groups])
        if in_batch:
            allowed = torch.ones(len(groups), len(documents), dtype=torch.bool)
        else:
            allowed = torch.zeros(len(groups), len(documents), dtype=torch.bool).scatter_(1, own, True)
        for row, group in enumerate(groups):
            masked = [documents[id] for id in group.relevant if id in documents]
            allowed[row, masked] = False
        allowed.scatter_(1, own[:, :1], True)
        rows = torch.tensor([queries[group.query] for group in groups])
        return cls(rows.to(device), own.to(device), allowed.to(device))


def info_nce(scores: torch.Tensor, positives: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """-log softmax of each row's positive over its allowed columns, [G]; scores [G, D], positives [G]."""
    considered = scores.masked_fill(~allowed, -torch.inf)
    return considered.logsumexp(dim=1) - scores.gather(1, positives[:, None]).squeeze(1)


@dataclass(frozen=True)
class ContrastiveLoss:
    """The loss of a step; widths: all that it is summed over."""

    widths: tuple[int, ...]
    normalize: bool = True
    temperature: float = 0.05
    contrastive_weight: float = 1.0
    distils: bool = False

    def __call__(
        self, queries: torch.Tensor, documents: torch.Tensor, columns: Columns, teacher: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of each group, [G], from states before normalization.

        queries [Q, width], documents [D, width]; teacher: scores [G, 1 + n] of the groups' documents if it distils.
        """
        return torch.stack([self._at(width, queries, documents, columns, teacher) for width in self.widths]).sum(dim=0)

    def _at(
        self,
        width: int,
        queries: torch.Tensor,
        documents: torch.Tensor,
        columns: Columns,
        teacher: torch.Tensor | None,
    ) -> torch.Tensor:
        asked = vectors_of(queries, width, self.normalize)[columns.queries]
        scores = asked @ vectors_of(documents, width, self.normalize).T / self.temperature
        contrast = info_nce(scores, columns.documents[:, 0], columns.allowed)
        if not self.distils:
            return contrast
        assert teacher is not None
        return kl_divergence(scores.gather(1, columns.documents), teacher) + self.contrastive_weight * contrast
