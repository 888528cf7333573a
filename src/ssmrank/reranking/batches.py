"""The batches of a reranking: which sequences run together, and how they are packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssmrank.models.packing import Packed
from ssmrank.models.prefix_sharing import pack_shared
from ssmrank.models.token_budget import budget_batches
from ssmrank.reranking.fixed_trees import fixed_trees
from ssmrank.reranking.prefix_tree import PrefixTree
from ssmrank.reranking.query_trees import query_trees
from ssmrank.reranking.segments import PARENT, segment_tokens, whole_segments
from ssmrank.reranking.sequences import PairSequences
from ssmrank.reranking.tree_builder import PrefixTreeBuilder


@dataclass(frozen=True, eq=False)
class Batch:
    """Pairs that run at once: some alone, int64, others in shared-prefix trees.

    sequences: those of all pairs of the work; cost: computed tokens, plus the tokens that stand for kept states; fixed:
    whether the trees are `fixed_trees`.
    """

    sequences: PairSequences
    alone: np.ndarray
    trees: tuple[PrefixTree, ...]
    cost: int
    fixed: bool = False

    @property
    def size(self) -> int:
        """Number of pairs."""
        return len(self.alone) + sum(len(tree.pairs) for tree in self.trees)

    @property
    def tokens(self) -> int:
        """How many tokens are computed."""
        return int(self.sequences.lengths[self.alone].sum()) + sum(tree.tokens for tree in self.trees)

    def pack(self) -> tuple[Packed, np.ndarray]:
        """The packed batch on the CPU, and the pair of each of its scores, int64."""
        sequences = self.sequences
        alone, sizes = len(self.alone), np.array([len(tree.segments) for tree in self.trees], dtype=np.int64)
        segments = np.concatenate([whole_segments(sequences, self.alone), *(tree.segments for tree in self.trees)])
        documents = np.concatenate([sequences.document[self.alone], *(tree.documents for tree in self.trees)])
        # A tree numbers its segments from 0, so its parents are shifted by the tree's start in the batch.
        begins = alone + np.cumsum(sizes) - sizes
        parents = segments[:, PARENT].copy()
        parents[alone:] += np.where(parents[alone:] < 0, 0, np.repeat(begins, sizes))
        pairs = np.full(len(segments), -1)
        pairs[:alone] = self.alone
        for tree, begin in zip(self.trees, begins.tolist(), strict=True):
            pairs[begin + tree.leaves] = tree.pairs
        packed, places = pack_shared(*segment_tokens(sequences, documents, segments), parents)
        return packed, pairs[places]


def plan_batches(sequences: PairSequences, token_budget: int, share: bool, fixed: bool = False) -> list[Batch]:
    """Batches of at most `token_budget` tokens that hold every pair once, the longest sequences first.

    A longer sequence is a batch of its own. With `share` (causal models) the shared prefix of a document's pairs is
    computed once, or that of a query's pairs where the query leads. The states of roots and branches count as tokens,
    so the budget limits a batch's memory for any number of queries per document. A document with very many queries is
    spread over several batches, each of which computes the document again. With `fixed` (causal models, document
    first) a sequence is divided into segments by itself alone, with and without `share` at the same place.
    """
    trees: list[PrefixTree] = []
    if fixed:
        trees = fixed_trees(sequences, np.arange(len(sequences)), token_budget, share)
    elif share and sequences.template.query_leads:
        trees = query_trees(sequences, np.arange(len(sequences)), token_budget)
    elif share:
        builder = PrefixTreeBuilder(sequences)
        trees = builder.trees_of(builder.groups(), token_budget)
    return _filled(sequences, np.arange(len(sequences)), trees, token_budget, fixed)


def divided(batch: Batch) -> list[Batch]:
    """The batch as batches of at most half its cost, for a device that lacks memory; a single pair stays as it is."""
    if batch.size == 1:
        return [batch]
    budget = max(1, batch.cost // 2)
    shared = [tree.pairs for tree in batch.trees]
    pairs = np.concatenate([batch.alone, *shared])
    if batch.fixed:
        trees = fixed_trees(batch.sequences, pairs, budget, share=True)
    elif batch.sequences.template.query_leads:
        trees = query_trees(batch.sequences, np.concatenate([pairs[:0], *shared]), budget)
    else:
        trees = PrefixTreeBuilder(batch.sequences).trees_of(shared, budget)
    return _filled(batch.sequences, pairs, trees, budget, batch.fixed)


def _filled(
    sequences: PairSequences, pairs: np.ndarray, trees: Sequence[PrefixTree], budget: int, fixed: bool
) -> list[Batch]:
    """Batches of the pairs, int64; pairs that are in no tree run alone."""
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
                fixed,
            )
        )
    return batches
