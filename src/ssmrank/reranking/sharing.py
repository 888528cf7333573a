"""Which tokens are computed where several queries ask for one document.

A causal model that reads the document first computes the same for all of its queries up to the document's end, and on
through what the queries begin with alike (" query:"). So the sequences of a document become a tree of segments (see
`models.forks`). Sequences of one document whose queries differ in length may be cut at different places: the trunk then
forks at several of them. The tree is made of the sequences' own tokens, so a path through it is exactly what
`Template.join` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ssmrank.reranking.sequences import PairSequences

FORK_TOKENS = 24
"""What a fork costs, in tokens: for its state (a megabyte a layer for a Mamba-2 of 370M) and for reading it."""

MOST_LEVELS = 4
"""Forks one behind the other: each is one more step of a layer's mixer for the whole batch."""

PARENT, FROM, TO, CUT, QUERY, START, END = range(7)
"""Columns of a tree's segments: what it continues; tokens FROM to TO of the document, the separator where CUT, tokens
START to END of the ending of a query."""


@dataclass(frozen=True, eq=False)
class Tree:
    """The sequences of a document's pairs.

    document: its number; segments: int64 [N, 7], parents before children; ends: int64 [P], the segment that ends each
    pair's sequence; pairs: int64 [P]; lengths: int64 [N].
    """

    document: int
    segments: np.ndarray
    ends: np.ndarray
    pairs: np.ndarray
    lengths: np.ndarray

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return int(self.lengths.sum())

    @property
    def cost(self) -> int:
        """Tokens, and what stands for the states of forks."""
        return self.tokens + FORK_TOKENS * (len(self.segments) - len(self.ends))

    def parts(self, sequences: PairSequences) -> tuple[list[np.ndarray], np.ndarray]:
        """The segments' token ids, and their parents (-1: none)."""
        text, template = sequences.text(self.document), sequences.template
        before = np.asarray(template.before, dtype=np.int32)
        separator = np.asarray(template.separator, dtype=np.int32)
        tokens = []
        for parent, first, last, cut, query, start, end in self.segments.tolist():
            pieces = [before] if parent < 0 else []
            if first < last:
                pieces.append(text[first:last])
            if cut:
                pieces.append(separator)
            if start < end:
                pieces.append(sequences.endings[query][start:end])
            tokens.append(np.concatenate(pieces) if len(pieces) > 1 else pieces[0])
        return tokens, self.segments[:, PARENT]


Planted = tuple[list[Tree], np.ndarray]
"""Trees, and pairs that are in none."""

NOTHING: Planted = ([], np.empty(0, dtype=np.int64))


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

    def trees_of(self, groups: Sequence[np.ndarray], budget: int) -> Planted:
        """The trees of groups of pairs, as `trees`, and the pairs that gain nothing by sharing, int64."""
        trees = [tree for pairs in groups for tree in self.trees(pairs, budget)]
        left = np.zeros(len(self.sequences), dtype=bool)
        for pairs in groups:
            left[pairs] = True
        for tree in trees:
            left[tree.pairs] = False
        return trees, np.flatnonzero(left)

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
        whole = sequences.whole[pairs]
        bounds = np.flatnonzero(np.diff(whole, prepend=-1, append=-1))
        rows: list[list[int]] = [[-1, 0, trunk[0], 0, 0, 0, 0]]
        ends: list[int] = []
        stem, reached, forks = 0, trunk[0], iter(trunk[1:])
        following = next(forks, None)
        for low, high in pairwise(bounds.tolist()):
            kept, fresh = int(whole[low]), low == 0
            if following == kept:
                rows.append([stem, reached, kept, 0, 0, 0, 0])
                stem, reached, fresh = len(rows) - 1, kept, True
                following = next(forks, None)
            members = pairs[low:high]
            cut, queries = int(sequences.cut[members[0]]), sequences.query[members].tolist()
            common = self._common(queries)
            parent, begin = stem, [reached, kept, cut]
            separators = len(template.separator) * cut
            if fresh and high == len(pairs) and reached == kept:
                # Nothing else hangs on this part of the trunk: it goes on as far as all its sequences do.
                rows[stem][CUT], rows[stem][QUERY], rows[stem][END] = cut, queries[0], common
                begin = [0, 0, 0]
            elif (len(members) - 1) * (kept - reached + separators + common) > FORK_TOKENS:
                rows.append([stem, reached, kept, cut, queries[0], 0, common])
                parent, begin = len(rows) - 1, [0, 0, 0]
            else:
                common = 0
            for query in queries:
                ends.append(len(rows))
                rows.append([parent, *begin, query, common, len(sequences.endings[query])])
        segments = np.array(rows, dtype=np.int64)
        lengths = segments[:, TO] - segments[:, FROM] + segments[:, END] - segments[:, START]
        lengths = lengths + segments[:, CUT] * len(template.separator)
        lengths[0] += len(template.before)
        return Tree(int(sequences.document[pairs[0]]), segments, np.array(ends), pairs, lengths)

    def _common(self, queries: list[int]) -> int:
        """How many tokens the endings of queries, in the order of ranks, have in common; each keeps its last one."""
        if len(queries) == 1:
            return 0
        endings = self.sequences.endings
        first, last = endings[queries[0]], endings[queries[-1]]
        shortest = min(len(endings[query]) for query in queries)
        same = first[: shortest - 1] == last[: shortest - 1]
        return len(same) if same.all() else int(np.argmin(same))


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
