"""Shared-prefix trees of sequences with the same query, where the query leads.

The root holds the query and the tokens with which the template begins each document; a leaf holds the rest of a pair's
sequence. A query is much shorter than a document, so this saves less than sharing documents does.
"""

from __future__ import annotations

import numpy as np

from ssmrank.reranking.fixed_trees import cut_into_trees, divide
from ssmrank.reranking.prefix_tree import BRANCH_TOKENS, PrefixTree
from ssmrank.reranking.segments import FROM, PARENT, QUERY, TO, whole_segments
from ssmrank.reranking.sequences import PairSequences


def query_trees(sequences: PairSequences, pairs: np.ndarray, budget: int) -> list[PrefixTree]:
    """Trees of one root and its leaves that hold pairs, int64, each with a cost within the budget.

    Pairs that gain nothing from sharing are in no tree.
    """
    head = len(sequences.template.document_head())
    pairs = pairs[_begin_alike(sequences, pairs)]
    pairs = pairs[np.lexsort((sequences.whole[pairs], sequences.query[pairs]))]
    if not len(pairs):
        return []
    query, template = sequences.query[pairs], sequences.template
    root = len(template.before) + sequences.ending_lengths[query] - len(template.after) + head
    leaf = sequences.lengths[pairs] - root
    new = np.diff(query, prepend=-1) != 0
    divide(new, root + BRANCH_TOKENS, leaf, budget)
    firsts = np.flatnonzero(new)
    sizes = np.diff(firsts, append=len(pairs))
    pays = (sizes - 1) * root[firsts] > BRANCH_TOKENS
    kept = np.repeat(pays, sizes)
    pairs, query, root, leaf, sizes = pairs[kept], query[kept], root[kept], leaf[kept], sizes[pays]
    if not len(pairs):
        return []
    firsts = np.cumsum(sizes) - sizes
    rows = firsts + np.arange(len(firsts))
    is_leaf = np.ones(len(pairs) + len(firsts), dtype=bool)
    is_leaf[rows] = False
    segments = np.zeros((len(is_leaf), 7), dtype=np.int64)
    segments[rows[:, None], [PARENT, TO, QUERY]] = np.stack(
        [np.full(len(firsts), -1), np.full(len(firsts), head), query[firsts]], axis=1
    )
    leaves = whole_segments(sequences, pairs)
    leaves[:, PARENT], leaves[:, FROM] = 0, head
    segments[is_leaf] = leaves
    documents = np.empty(len(segments), dtype=np.int64)
    documents[is_leaf], documents[rows] = sequences.document[pairs], sequences.document[pairs[firsts]]
    tokens = root[firsts] + np.add.reduceat(leaf, firsts)
    return cut_into_trees(documents, segments, pairs, rows, firsts, sizes, tokens)


def _begin_alike(sequences: PairSequences, pairs: np.ndarray) -> np.ndarray:
    """Whether each pair's document begins with the template's own tokens; those of a few join with the text's first."""
    head = sequences.template.document_head()
    chosen, own = np.unique(sequences.document[pairs], return_inverse=True)
    alike = [np.array_equal(sequences.text(document)[: len(head)], head) for document in chosen.tolist()]
    return np.array(alike, dtype=bool)[own] & (sequences.whole[pairs] >= len(head))
