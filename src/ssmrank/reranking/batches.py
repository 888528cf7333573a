"""The batches of a reranking: which sequences are run together, and the packed batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssmrank.models.packing import Packed
from ssmrank.models.prefix_sharing import pack_shared
from ssmrank.models.token_budget import budget_batches
from ssmrank.reranking.prefix_tree import PrefixTree
from ssmrank.reranking.segments import PARENT, segment_tokens, whole_segments
from ssmrank.reranking.sequences import PairSequences
from ssmrank.reranking.tree_builder import PrefixTreeBuilder


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs that are run at once: some alone, int64, others in trees that share a document.

    sequences: those of all pairs; cost: tokens that are computed, and states that segments continue, as tokens.
    """

    sequences: PairSequences
    alone: np.ndarray
    trees: tuple[PrefixTree, ...]
    cost: int

    @property
    def size(self) -> int:
        """Number of pairs."""
        return len(self.alone) + sum(len(tree.pairs) for tree in self.trees)

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return int(self.sequences.lengths[self.alone].sum()) + sum(tree.tokens for tree in self.trees)

    def pack(self) -> tuple[Packed, np.ndarray]:
        """The packed batch on the CPU, and the pair of each score that it gives, int64."""
        sequences = self.sequences
        alone, sizes = len(self.alone), np.array([len(tree.segments) for tree in self.trees], dtype=np.int64)
        segments = np.concatenate([whole_segments(sequences, self.alone), *(tree.segments for tree in self.trees)])
        documents = np.array([tree.document for tree in self.trees], dtype=np.int64)
        documents = np.concatenate([sequences.document[self.alone], np.repeat(documents, sizes)])
        # A tree counts its segments from 0: its numbers are shifted to the place where it begins in the batch.
        begins = alone + np.cumsum(sizes) - sizes
        parents = segments[:, PARENT].copy()
        parents[alone:] += np.where(parents[alone:] < 0, 0, np.repeat(begins, sizes))
        pairs = np.full(len(segments), -1)
        pairs[:alone] = self.alone
        for tree, begin in zip(self.trees, begins.tolist(), strict=True):
            pairs[begin + tree.leaves] = tree.pairs
        packed, places = pack_shared(*segment_tokens(sequences, documents, segments), parents)
        return packed, pairs[places]


def plan_batches(sequences: PairSequences, token_budget: int, share: bool) -> list[Batch]:
    """Batches of at most `token_budget` tokens that hold every pair once, the longest sequences first.

    A longer sequence is a batch of its own. With `share` (causal models, document first) a document's pairs compute
    their shared prefix once. The states that branches keep count as tokens, so the budget bounds a batch's memory
    whatever the number of queries per document. A document with very many queries is spread over several batches, each
    of which runs the document again.
    """
    trees: list[PrefixTree] = []
    if share:
        builder = PrefixTreeBuilder(sequences)
        trees = builder.trees_of(builder.groups(), token_budget)
    return _filled(sequences, np.arange(len(sequences)), trees, token_budget)


def divided(batch: Batch) -> list[Batch]:
    """The batch as smaller ones of at most half the cost, for a device that lacks memory; itself if it is one pair."""
    if batch.size == 1:
        return [batch]
    budget = max(1, batch.cost // 2)
    shared = [tree.pairs for tree in batch.trees]
    trees = PrefixTreeBuilder(batch.sequences).trees_of(shared, budget)
    return _filled(batch.sequences, np.concatenate([batch.alone, *shared]), trees, budget)


def _filled(sequences: PairSequences, pairs: np.ndarray, trees: Sequence[PrefixTree], budget: int) -> list[Batch]:
    """Batches of pairs, int64, which are run alone where no tree has them."""
    apart = np.zeros(len(sequences), dtype=bool)
    apart[pairs] = True
    for tree in trees:
        apart[tree.pairs] = False
    alone = np.flatnonzero(apart)
    lengths = sequences.lengths
    longest = np.concatenate([lengths[alone], [lengths[tree.pairs].max() for tree in trees]]).astype(np.int64)
    costs = np.concatenate([lengths[alone], [tree.cost for tree in trees]]).astype(np.int64)
    batches = []
    for units in budget_batches(longest, budget, costs):
        members = alone[units[units < len(alone)]]
        batches.append(
            Batch(
                sequences,
                members,
                tuple(trees[unit - len(alone)] for unit in units if unit >= len(alone)),
                int(costs[units].sum()),
            )
        )
    return batches
