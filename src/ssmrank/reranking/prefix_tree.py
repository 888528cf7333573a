"""Shared-prefix trees of sequences with the same document. Two-level trees are made for many documents at once.

For most documents, all queries read the document whole or cut it at the same place. One root then holds the document,
and each pair is a leaf. Such trees are made without a loop over documents, so that planning holds Python's global lock
for less time. The thread that launches the GPU's work needs that lock too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssmrank.reranking.segments import CUT, END, PARENT, QUERY, START, TO
from ssmrank.reranking.sequences import PairSequences

BRANCH_TOKENS = 24
"""The extra cost, in tokens, of a segment that others continue: its state is stored and read.

In a Mamba-2 of 370M parameters, the state takes a megabyte per layer.
"""

_AT_ONCE = 2**16
"""How many groups of queries are compared at once, which limits the memory."""


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """The sequences of pairs with a document or a query in common, as a tree of segments.

    documents: int64 [N], the document of each segment; segments: int64 [N, 7] (see `segments`), parents before
    children; leaves: int64 [P], the segment that ends each pair's sequence; pairs: int64 [P]; tokens: how many tokens
    are computed.
    """

    documents: np.ndarray
    segments: np.ndarray
    leaves: np.ndarray
    pairs: np.ndarray
    tokens: int

    @property
    def cost(self) -> int:
        """The computed tokens, plus `BRANCH_TOKENS` for the state of each root and branch."""
        return self.tokens + BRANCH_TOKENS * (len(self.segments) - len(self.leaves))


def two_level_trees(sequences: PairSequences, groups: Sequence[np.ndarray]) -> list[PrefixTree | None]:
    """A tree for each group from `PrefixTreeBuilder.groups`: one root, and a leaf for each pair.

    It is None if some pairs read more of the document than others, or if sharing would cost more than it saves.
    """
    if not groups:
        return []
    template, before = sequences.template, len(sequences.template.before)
    sizes = np.fromiter(map(len, groups), dtype=np.int64, count=len(groups))
    first, last = np.array([[pairs[0], pairs[-1]] for pairs in groups]).T
    read, cut = sequences.whole[first], sequences.cut[first].astype(np.int64)
    fits = (read == sequences.whole[last]) & ((sizes - 1) * (before + read) > BRANCH_TOKENS)
    chosen = np.flatnonzero(fits)
    if not len(chosen):
        return [None] * len(groups)
    pairs = np.concatenate([groups[place] for place in chosen.tolist()])
    first, last, sizes, read, cut = (part[chosen] for part in (first, last, sizes, read, cut))
    common = common_tokens(sequences, sequences.query[first], sequences.query[last])
    queries, shared = sequences.query[pairs], np.repeat(common, sizes)
    endings = sequences.ending_lengths[queries]
    # Each tree has a row for its root, followed by one for each pair.
    bounds = np.concatenate([[0], np.cumsum(sizes + 1)])
    roots = bounds[:-1]
    is_leaf = np.ones(bounds[-1], dtype=bool)
    is_leaf[roots] = False
    segments = np.zeros((bounds[-1], 7), dtype=np.int64)
    segments[roots[:, None], [PARENT, TO, CUT, QUERY, END]] = np.stack(
        [np.full(len(roots), -1), read, cut, sequences.query[first], common], axis=1
    )
    segments[np.flatnonzero(is_leaf)[:, None], [QUERY, START, END]] = np.stack([queries, shared, endings], axis=1)
    starts = np.cumsum(sizes) - sizes
    tokens = before + read + cut * len(template.separator) + common + np.add.reduceat(endings - shared, starts)
    leaves = np.arange(1, sizes.max() + 1)
    documents = np.repeat(sequences.document[first], sizes + 1)
    trees: list[PrefixTree | None] = [None] * len(groups)
    for place, start, size, row, count in zip(
        chosen.tolist(), starts.tolist(), sizes.tolist(), roots.tolist(), tokens.tolist(), strict=True
    ):
        rows = slice(row, row + size + 1)
        trees[place] = PrefixTree(documents[rows], segments[rows], leaves[:size], pairs[start : start + size], count)
    return trees


def common_tokens(sequences: PairSequences, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """How many leading tokens the endings of each group of queries share, int64 [N].

    The last token of an ending is never shared, so that each leaf has a token. first, last: int64 [N], the first and
    the last query of each group in the order of `PrefixTreeBuilder.groups`. In this order, all queries between the two
    share at least what the two share.
    """
    found = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(first), _AT_ONCE):
        pair = [query[start : start + _AT_ONCE] for query in (first, last)]
        most = np.minimum(*(sequences.ending_lengths[query] for query in pair)) - 1
        columns = np.arange(int(most.max()) + 1)
        # Places from the shorter ending's last token on count as different.
        places = np.minimum(columns, most[:, None])
        one, other = (sequences.all_endings[sequences.ending_starts[query][:, None] + places] for query in pair)
        found.append(((one != other) | (columns >= most[:, None])).argmax(1))
    return np.concatenate(found)
