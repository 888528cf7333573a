"""Trees of sequences that share a document, and the simplest of them, made for many documents at once.

Most documents are read whole, or cut at one place, by all of their queries: the trunk ends in one fork. Such trees are
made without a loop over documents: planning then leaves Python's lock sooner to the thread that hands a GPU its orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssmrank.reranking.segments import CUT, END, PARENT, QUERY, START, TO
from ssmrank.reranking.sequences import PairSequences

FORK_TOKENS = 24
"""What a fork costs, in tokens: for its state (a megabyte a layer for a Mamba-2 of 370M) and for reading it."""

_AT_ONCE = 2**16
"""Documents whose queries are compared at once, which bounds the memory."""


@dataclass(frozen=True, eq=False)
class Tree:
    """The sequences of a document's pairs.

    document: its number; segments: int64 [N, 7] (see `segments`), parents before children; ends: int64 [P], the segment
    that ends each pair's sequence; pairs: int64 [P]; tokens: that are computed.
    """

    document: int
    segments: np.ndarray
    ends: np.ndarray
    pairs: np.ndarray
    tokens: int

    @property
    def cost(self) -> int:
        """Tokens, and what stands for the states of forks."""
        return self.tokens + FORK_TOKENS * (len(self.segments) - len(self.ends))


def one_fork_trees(sequences: PairSequences, groups: Sequence[np.ndarray]) -> list[Tree | None]:
    """For each document's pairs (several, in the order of `Planter.groups`) their tree, if its trunk ends in one fork.

    None where pairs read more or less of the document, or where a fork would not save what it costs.
    """
    if not groups:
        return []
    template, before = sequences.template, len(sequences.template.before)
    sizes = np.fromiter(map(len, groups), dtype=np.int64, count=len(groups))
    first, last = np.array([[pairs[0], pairs[-1]] for pairs in groups]).T
    trunk, cut = sequences.whole[first], sequences.cut[first].astype(np.int64)
    fits = (trunk == sequences.whole[last]) & ((sizes - 1) * (before + trunk) > FORK_TOKENS)
    chosen = np.flatnonzero(fits)
    if not len(chosen):
        return [None] * len(groups)
    pairs = np.concatenate([groups[place] for place in chosen.tolist()])
    first, last, sizes, trunk, cut = (part[chosen] for part in (first, last, sizes, trunk, cut))
    common = common_tokens(sequences, sequences.query[first], sequences.query[last])
    queries, shared = sequences.query[pairs], np.repeat(common, sizes)
    endings = sequences.ending_lengths[queries]
    # Of each tree a row for the trunk, then one for each pair.
    bounds = np.concatenate([[0], np.cumsum(sizes + 1)])
    stems = bounds[:-1]
    leaves = np.ones(bounds[-1], dtype=bool)
    leaves[stems] = False
    segments = np.zeros((bounds[-1], 7), dtype=np.int64)
    segments[stems[:, None], [PARENT, TO, CUT, QUERY, END]] = np.stack(
        [np.full(len(stems), -1), trunk, cut, sequences.query[first], common], axis=1
    )
    segments[np.flatnonzero(leaves)[:, None], [QUERY, START, END]] = np.stack([queries, shared, endings], axis=1)
    starts = np.cumsum(sizes) - sizes
    tokens = before + trunk + cut * len(template.separator) + common + np.add.reduceat(endings - shared, starts)
    ends = np.arange(1, sizes.max() + 1)
    trees: list[Tree | None] = [None] * len(groups)
    for place, document, start, size, row, count in zip(
        chosen.tolist(), sequences.document[first].tolist(), starts.tolist(), sizes.tolist(), stems.tolist(),
        tokens.tolist(), strict=True,
    ):  # fmt: skip
        trees[place] = Tree(document, segments[row : row + size + 1], ends[:size], pairs[start : start + size], count)
    return trees


def common_tokens(sequences: PairSequences, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """How many tokens the endings of queries have in common, int64 [N]; each keeps its last one.

    first, last: int64 [N], of the queries in the order of `Planter.groups`; these two have no more in common, and leave
    no more of it, than those between them.
    """
    found = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(first), _AT_ONCE):
        pair = [query[start : start + _AT_ONCE] for query in (first, last)]
        most = np.minimum(*(sequences.ending_lengths[query] for query in pair)) - 1
        columns = np.arange(int(most.max()) + 1)
        # Places behind the shorter ending count as different before they are looked at.
        places = np.minimum(columns, most[:, None])
        one, other = (sequences.all_endings[sequences.ending_starts[query][:, None] + places] for query in pair)
        found.append(((one != other) | (columns >= most[:, None])).argmax(1))
    return np.concatenate(found)
