"""Builds shared-prefix trees for documents that several queries ask for.

A causal model that reads the document first computes the same states for all queries up to the document's end, and
through the tokens that all queries start with (" query:"). So a document's sequences become a shared-prefix tree of
segments (`models.prefix_sharing`). Queries of different lengths may cut the document at different places. The document
is then a chain of a root and branches, with a branch point at each of these places. The tree consists of the sequences'
own tokens, so a path from the root to a leaf is exactly the sequence from `Template.join`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ssmrank.reranking.prefix_tree import BRANCH_TOKENS, PrefixTree, common_tokens, two_level_trees
from ssmrank.reranking.segments import CUT, END, FROM, QUERY, START, TO
from ssmrank.reranking.sequences import PairSequences

MOST_LEVELS = 4
"""The most branch points along a document. Each costs the whole batch one more step in every layer's mixer."""


class PrefixTreeBuilder:
    """Builds the shared-prefix trees of documents."""

    def __init__(self, sequences: PairSequences) -> None:
        self.sequences = sequences
        # Lexicographic order: in a range of endings, what the first and the last have in common, all have in common.
        order = sorted(range(len(sequences.endings)), key=lambda q: sequences.endings[q].astype(">i4").tobytes())
        self._rank = np.empty(len(order), dtype=np.int64)
        self._rank[order] = np.arange(len(order))

    def groups(self) -> list[np.ndarray]:
        """The pairs of each document with several pairs, int64, in the order that `trees` expects."""
        sequences = self.sequences
        order = np.lexsort((self._rank[sequences.query], sequences.whole, sequences.document))
        bounds = np.flatnonzero(np.diff(sequences.document[order], prepend=-1, append=-1))
        return [order[low:high] for low, high in pairwise(bounds.tolist()) if high - low > 1]

    def trees_of(self, groups: Sequence[np.ndarray], budget: int) -> list[PrefixTree]:
        """The trees of groups of pairs, each within the budget as in `trees`."""
        trees: list[PrefixTree] = []
        for pairs, tree in zip(groups, two_level_trees(self.sequences, groups), strict=True):
            trees += [tree] if tree is not None and tree.cost <= budget else self.trees(pairs, budget)
        return trees

    def trees(self, pairs: np.ndarray, budget: int) -> list[PrefixTree]:
        """Trees of a document's pairs, each with a cost within the budget; several if one tree would cost more.

        Pairs that gain nothing from sharing are in no tree.
        """
        tree = self._tree(pairs)
        if tree is None:
            return []
        if tree.cost <= budget or len(pairs) == 1:
            return [tree]
        read = int(self.sequences.whole[pairs].max())
        count = -(-(tree.cost - read) // max(1, budget - read)) if read < budget else len(pairs)
        parts = np.array_split(pairs, min(max(2, count), len(pairs)))
        return [small for part in parts if len(part) > 1 for small in self.trees(part, budget)]

    def _tree(self, pairs: np.ndarray) -> PrefixTree | None:
        cost = BRANCH_TOKENS
        while True:
            points = _branch_points(self.sequences.whole[pairs], len(self.sequences.template.before), cost)
            if points is None:
                return None
            if len(points) <= MOST_LEVELS:
                return self._branched(pairs, points)
            cost *= 2

    def _branched(self, pairs: np.ndarray, points: list[int]) -> PrefixTree:
        """The tree that branches after these numbers of document tokens."""
        sequences, template = self.sequences, self.sequences.template
        whole, asked = sequences.whole[pairs], sequences.query[pairs]
        bounds = np.flatnonzero(np.diff(whole, prepend=-1, append=-1))
        first, last = asked[bounds[:-1]], asked[bounds[1:] - 1]
        shared = np.where(np.diff(bounds) > 1, common_tokens(sequences, first, last), 0)
        branch_row = np.array([[-1, 0, points[0], 0, 0, 0, 0]], dtype=np.int64)
        rows, count, leaves = [branch_row], 1, []
        branch, reached, coming = 0, points[0], iter(points[1:])
        following = next(coming, None)
        for (low, high), common in zip(pairwise(bounds.tolist()), shared.tolist(), strict=True):
            kept, fresh = int(whole[low]), low == 0
            if following == kept:
                branch_row = np.array([[branch, reached, kept, 0, 0, 0, 0]], dtype=np.int64)
                rows.append(branch_row)
                branch, reached, fresh = count, kept, True
                count += 1
                following = next(coming, None)
            cut, queries = int(sequences.cut[pairs[low]]), asked[low:high]
            parent, begin = branch, [reached, kept, cut]
            separators = len(template.separator) * cut
            if fresh and high == len(pairs) and reached == kept:
                # Nothing else continues this branch, so it also takes the tokens that its queries share.
                branch_row[0, [CUT, QUERY, END]] = cut, queries[0], common
                begin = [0, 0, 0]
            elif (len(queries) - 1) * (kept - reached + separators + common) > BRANCH_TOKENS:
                rows.append(np.array([[branch, reached, kept, cut, queries[0], 0, common]], dtype=np.int64))
                parent, begin = count, [0, 0, 0]
                count += 1
            else:
                common = 0
            leaf_rows = np.empty((len(queries), 7), dtype=np.int64)
            leaf_rows[:, : CUT + 1] = [parent, *begin]
            leaf_rows[:, QUERY], leaf_rows[:, START] = queries, common
            leaf_rows[:, END] = sequences.ending_lengths[queries]
            rows.append(leaf_rows)
            leaves.append(np.arange(count, count + len(queries)))
            count += len(queries)
        segments = np.concatenate(rows)
        sums = segments.sum(0)
        tokens = sums[TO] - sums[FROM] + sums[END] - sums[START] + sums[CUT] * len(template.separator)
        tokens += len(template.before)
        documents = np.full(len(segments), sequences.document[pairs[0]])
        return PrefixTree(documents, segments, np.concatenate(leaves), pairs, int(tokens))


def _branch_points(whole: np.ndarray, before: int, cost: int) -> list[int] | None:
    """The numbers of document tokens after which the tree branches; None if sharing does not pay at all.

    whole: int64, how many document tokens each sequence reads, ascending; before: tokens before the document; cost: a
    branch point must save more tokens than this.
    """
    if (len(whole) - 1) * (before + int(whole[0])) <= cost:
        return None
    points = [int(whole[0])]
    for place in np.flatnonzero(np.diff(whole)) + 1:
        if (len(whole) - int(place) - 1) * (int(whole[place]) - points[-1]) > cost:
            points.append(int(whole[place]))
    return points
