"""Shared-prefix trees whose shape depends on each pair alone, for scores that do not depend on the batch.

A scan groups its sums by chunks that start where a segment starts, so a score depends on where its sequence is divided.
`tree_builder` divides a document where its queries differ. Here each sequence is a root and a leaf, divided at a place
that only its own document and query decide, also if no other pair shares the root.
"""

from __future__ import annotations

import numpy as np

from ssmrank.reranking.prefix_tree import BRANCH_TOKENS, PrefixTree
from ssmrank.reranking.segments import CUT, END, FROM, PARENT, QUERY, START, TO
from ssmrank.reranking.sequences import PairSequences

GRID = 32
"""A cut document is divided after a multiple of this many tokens, so that queries of most lengths share the root."""


def fixed_trees(sequences: PairSequences, pairs: np.ndarray, budget: int, share: bool) -> list[PrefixTree]:
    """Trees of one root and its leaves that hold the pairs, int64, each within the budget if it has two leaves.

    The root holds a document that is read whole, and the tokens with which the template begins each query. Of a cut
    document it holds the tokens up to the last multiple of `GRID`. Pairs without such tokens are in no tree, and run
    alone. Without `share` each tree has one leaf.
    """
    head = _head(sequences)[sequences.query[pairs]]
    head = np.where(sequences.cut[pairs], 0, head)
    whole = sequences.whole[pairs]
    reach = np.where(sequences.cut[pairs], whole // GRID * GRID, whole)
    document, query = sequences.document[pairs], sequences.query[pairs]
    order = np.lexsort((query, head, reach, document))
    order = order[reach[order] > 0]
    if not len(order):
        return []
    pairs, document, query, whole, reach, head = (
        array[order] for array in (pairs, document, query, whole, reach, head)
    )
    cut, endings = sequences.cut[pairs].astype(np.int64), sequences.ending_lengths[query]
    leaf = whole - reach + cut * len(sequences.template.separator) + endings - head
    root = len(sequences.template.before) + reach + head
    new = np.ones(len(pairs), dtype=bool)
    if share:
        new[1:] = (np.diff(document) != 0) | (np.diff(reach) != 0) | (np.diff(head) != 0)
        divide(new, root + BRANCH_TOKENS, leaf, budget)
    firsts = np.flatnonzero(new)
    sizes = np.diff(firsts, append=len(pairs))
    rows = firsts + np.arange(len(firsts))
    segments = np.zeros((len(pairs) + len(firsts), 7), dtype=np.int64)
    segments[rows[:, None], [PARENT, TO, QUERY, END]] = np.stack(
        [np.full(len(firsts), -1), reach[firsts], query[firsts], head[firsts]], axis=1
    )
    is_leaf = np.ones(len(segments), dtype=bool)
    is_leaf[rows] = False
    segments[np.flatnonzero(is_leaf)[:, None], [FROM, TO, CUT, QUERY, START, END]] = np.stack(
        [reach, whole, cut, query, head, endings], axis=1
    )
    tokens = root[firsts] + np.add.reduceat(leaf, firsts)
    documents = np.repeat(document[firsts], sizes + 1)
    return cut_into_trees(documents, segments, pairs, rows, firsts, sizes, tokens)


def cut_into_trees(
    documents: np.ndarray,
    segments: np.ndarray,
    pairs: np.ndarray,
    rows: np.ndarray,
    firsts: np.ndarray,
    sizes: np.ndarray,
    tokens: np.ndarray,
) -> list[PrefixTree]:
    """Trees of one root and its leaves.

    documents, segments: of all trees, each root before its leaves; pairs: of all leaves; rows, firsts: int64, where
    each tree begins in them; sizes: int64, leaves of each; tokens: int64, computed tokens of each.
    """
    leaves = np.arange(1, sizes.max() + 1)
    numbers = (array.tolist() for array in (rows, firsts, sizes, tokens))
    return [
        PrefixTree(
            documents[row : row + size + 1],
            segments[row : row + size + 1],
            leaves[:size],
            pairs[first : first + size],
            count,
        )
        for row, first, size, count in zip(*numbers, strict=True)
    ]


def _head(sequences: PairSequences) -> np.ndarray:
    """How many tokens of the template each query's ending begins with, int64 [Q]; they are not its last ones."""
    head = sequences.template.query_head()
    starts = [
        len(head) if len(ending) > len(head) and np.array_equal(ending[: len(head)], head) else 0
        for ending in sequences.endings
    ]
    return np.array(starts, dtype=np.int64)


def divide(new: np.ndarray, root: np.ndarray, leaf: np.ndarray, budget: int) -> None:
    """Marks in `new`, bool, where a tree begins because the one before would cost more than the budget.

    root, leaf: int64, the cost of each pair's root and leaf.
    """
    firsts = np.flatnonzero(new)
    costs = root[firsts] + np.add.reduceat(leaf, firsts)
    ends = np.append(firsts[1:], len(new))
    for tree in np.flatnonzero(costs > budget).tolist():
        cost = 0
        for place in range(firsts[tree], ends[tree]):
            cost += int(leaf[place])
            if place > firsts[tree] and root[place] + cost > budget:
                new[place], cost = True, int(leaf[place])
