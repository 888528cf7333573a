"""Which tokens are computed where several queries ask for one document.

A causal model that reads the document first computes the same for all of its queries up to the document's end, and on
through what the queries begin with alike (" query:"). So the sequences of a document become a tree of segments (see
`models.forks`). Sequences of one document whose queries differ in length may be cut at different places: the trunk then
forks at several of them. The tree is made of the sequences' own tokens, so a path through it is exactly what
`Template.join` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ssmrank.reranking.segments import CUT, END, FROM, QUERY, START, TO
from ssmrank.reranking.sequences import PairSequences
from ssmrank.reranking.trees import FORK_TOKENS, Tree, common_tokens, one_fork_trees

MOST_LEVELS = 4
"""Forks one behind the other: each is one more step of a layer's mixer for the whole batch."""


class Planter:
    """Makes the trees of documents."""

    def __init__(self, sequences: PairSequences) -> None:
        self.sequences = sequences
        # In this order the first and the last of some endings have no more in common than all of them.
        order = sorted(range(len(sequences.endings)), key=lambda q: sequences.endings[q].astype(">i4").tobytes())
        self._rank = np.empty(len(order), dtype=np.int64)
        self._rank[order] = np.arange(len(order))

    def groups(self) -> list[np.ndarray]:
        """The pairs of each document that has several, in the order in which `trees` wants them."""
        sequences = self.sequences
        order = np.lexsort((self._rank[sequences.query], sequences.whole, sequences.document))
        bounds = np.flatnonzero(np.diff(sequences.document[order], prepend=-1, append=-1))
        return [order[low:high] for low, high in pairwise(bounds.tolist()) if high - low > 1]

    def trees_of(self, groups: Sequence[np.ndarray], budget: int) -> list[Tree]:
        """The trees of groups of pairs, as `trees`; pairs that gain nothing by sharing are in none."""
        trees: list[Tree] = []
        for pairs, tree in zip(groups, one_fork_trees(self.sequences, groups), strict=True):
            trees += [tree] if tree is not None and tree.cost <= budget else self.trees(pairs, budget)
        return trees

    def trees(self, pairs: np.ndarray, budget: int) -> list[Tree]:
        """Trees of a document's pairs, none of more cost than the budget: several where one would be.

        Pairs that gain nothing by sharing are in none of them.
        """
        tree = self._tree(pairs)
        if tree is None:
            return []
        if tree.cost <= budget or len(pairs) == 1:
            return [tree]
        trunk = int(self.sequences.whole[pairs].max())
        count = -(-(tree.cost - trunk) // max(1, budget - trunk)) if trunk < budget else len(pairs)
        parts = np.array_split(pairs, min(max(2, count), len(pairs)))
        return [small for part in parts if len(part) > 1 for small in self.trees(part, budget)]

    def _tree(self, pairs: np.ndarray) -> Tree | None:
        cost = FORK_TOKENS
        while True:
            trunk = _forks(self.sequences.whole[pairs], len(self.sequences.template.before), cost)
            if trunk is None:
                return None
            if len(trunk) <= MOST_LEVELS:
                return self._grown(pairs, trunk)
            cost *= 2

    def _grown(self, pairs: np.ndarray, trunk: list[int]) -> Tree:
        """The tree whose trunk forks behind these numbers of the document's tokens."""
        sequences, template = self.sequences, self.sequences.template
        whole, asked = sequences.whole[pairs], sequences.query[pairs]
        bounds = np.flatnonzero(np.diff(whole, prepend=-1, append=-1))
        first, last = asked[bounds[:-1]], asked[bounds[1:] - 1]
        shared = np.where(np.diff(bounds) > 1, common_tokens(sequences, first, last), 0)
        stem_row = np.array([[-1, 0, trunk[0], 0, 0, 0, 0]], dtype=np.int64)
        rows, count, ends = [stem_row], 1, []
        stem, reached, forks = 0, trunk[0], iter(trunk[1:])
        following = next(forks, None)
        for (low, high), common in zip(pairwise(bounds.tolist()), shared.tolist(), strict=True):
            kept, fresh = int(whole[low]), low == 0
            if following == kept:
                stem_row = np.array([[stem, reached, kept, 0, 0, 0, 0]], dtype=np.int64)
                rows.append(stem_row)
                stem, reached, fresh = count, kept, True
                count += 1
                following = next(forks, None)
            cut, queries = int(sequences.cut[pairs[low]]), asked[low:high]
            parent, begin = stem, [reached, kept, cut]
            separators = len(template.separator) * cut
            if fresh and high == len(pairs) and reached == kept:
                # Nothing else hangs on this part of the trunk: it goes on as far as all its sequences do.
                stem_row[0, [CUT, QUERY, END]] = cut, queries[0], common
                begin = [0, 0, 0]
            elif (len(queries) - 1) * (kept - reached + separators + common) > FORK_TOKENS:
                rows.append(np.array([[stem, reached, kept, cut, queries[0], 0, common]], dtype=np.int64))
                parent, begin = count, [0, 0, 0]
                count += 1
            else:
                common = 0
            leaves = np.empty((len(queries), 7), dtype=np.int64)
            leaves[:, : CUT + 1] = [parent, *begin]
            leaves[:, QUERY], leaves[:, START], leaves[:, END] = queries, common, sequences.ending_lengths[queries]
            rows.append(leaves)
            ends.append(np.arange(count, count + len(queries)))
            count += len(queries)
        segments = np.concatenate(rows)
        sums = segments.sum(0)
        tokens = sums[TO] - sums[FROM] + sums[END] - sums[START] + sums[CUT] * len(template.separator)
        tokens += len(template.before)
        return Tree(int(sequences.document[pairs[0]]), segments, np.concatenate(ends), pairs, int(tokens))


def _forks(whole: np.ndarray, before: int, cost: int) -> list[int] | None:
    """Behind how many tokens of the document the trunk forks; `whole`, ascending: how many each sequence reads.

    A fork has to save more than its cost. None where the first one does not.
    """
    if (len(whole) - 1) * (before + int(whole[0])) <= cost:
        return None
    forks = [int(whole[0])]
    for place in np.flatnonzero(np.diff(whole)) + 1:
        if (len(whole) - int(place) - 1) * (int(whole[place]) - forks[-1]) > cost:
            forks.append(int(whole[place]))
    return forks
