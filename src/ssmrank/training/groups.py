"""Training groups as token sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ssmrank.errors import UserError
from ssmrank.io.jsonl import read_jsonl
from ssmrank.models.templates import Template


class Texts(Protocol):
    """Texts by id."""

    def __getitem__(self, key: str, /) -> str: ...


@dataclass(frozen=True)
class Group:
    """A query, a relevant document and its negatives, by id."""

    query: str
    documents: tuple[str, ...]


def read_groups(path: str | Path, negatives: int) -> list[Group]:
    """The groups of a negatives file. Raises UserError for a line without the keys or with another number."""
    groups = []
    for number, record in read_jsonl(path):
        try:
            group = Group(record["query"], (record["positive"], *record["negatives"]))
        except KeyError as error:
            raise UserError(
                f"{path}:{number}: key {error} is missing; make the file with `ssmrank negatives`"
            ) from error
        if len(group.documents) != 1 + negatives:
            raise UserError(f"{path}:{number}: {len(group.documents) - 1} negatives where {negatives} are set")
        groups.append(group)
    if not groups:
        raise UserError(f"{path}: holds no group; check section negatives and the collection's qrels")
    return groups


class GroupSequences:
    """Token sequences of groups; each text is tokenized once.

    `sequences[i]` gives group i's 1 + negatives sequences, the relevant document first.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        template: Template,
        queries: Mapping[str, str],
        documents: Texts,
        max_length: int,
    ) -> None:
        self.groups = groups
        self._template = template
        self._max_length = max_length
        query_ids = sorted({group.query for group in groups})
        document_ids = sorted({document for group in groups for document in group.documents})
        missing = next((query for query in query_ids if query not in queries), None)
        if missing is not None:
            raise UserError(f"query {missing}: named by the training groups, unknown to the collection's split")
        self._queries = dict(zip(query_ids, template.tokenize_queries([queries[q] for q in query_ids]), strict=True))
        texts = [documents[document] for document in document_ids]
        self._documents = dict(zip(document_ids, template.tokenize_documents(texts), strict=True))

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> list[np.ndarray]:
        group = self.groups[index]
        query = self._queries[group.query]
        return [
            self._template.join(query, self._documents[document], self._max_length, group.query)
            for document in group.documents
        ]


def step_indices(groups: int, batch_groups: int, seed: int, first_step: int, total_steps: int) -> Iterator[list[int]]:
    """The groups of each optimizer step from `first_step` on.

    Each pass over the groups has its own order, drawn from (seed, pass), so that any step can be had without those
    before it.
    """
    order: list[int] = []
    current = -1
    for step in range(first_step, total_steps):
        indices = []
        for position in range(step * batch_groups, (step + 1) * batch_groups):
            epoch, place = divmod(position, groups)
            if epoch != current:
                order = np.random.default_rng([seed, epoch]).permutation(groups).tolist()
                current = epoch
            indices.append(order[place])
        yield indices


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cuts a step into runs of neighbouring groups of at most `token_budget` tokens; a larger group stands alone."""
    batches: list[list[int]] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if not batches or tokens + length > token_budget:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += length
    return batches
