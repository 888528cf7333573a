"""Segments of sequences as tables of numbers, which say what part of a document and of a query each one holds.

The tables stand for token arrays until a batch is packed; packing then reads all tokens at once.
"""

from __future__ import annotations

import numpy as np

from ssmrank.models.packing import places_of
from ssmrank.reranking.sequences import PairSequences

PARENT, FROM, TO, CUT, QUERY, START, END = range(7)
"""Columns of a segment: PARENT is the segment that it continues, -1 if none. It holds the document's tokens FROM to TO,
the separator if CUT, and the tokens START to END of the ending of QUERY. Where a query leads, a segment that continues
none begins with it."""


def whole_segments(sequences: PairSequences, pairs: np.ndarray) -> np.ndarray:
    """The whole sequences of pairs, int64 [P], each as one segment, int64 [P, 7]."""
    query = sequences.query[pairs]
    segments = np.zeros((len(pairs), 7), dtype=np.int64)
    segments[:, PARENT], segments[:, QUERY] = -1, query
    segments[:, TO], segments[:, END] = sequences.whole[pairs], sequences.ending_lengths[query]
    if sequences.template.query_follows:
        segments[:, CUT] = sequences.cut[pairs]
    else:
        segments[:, START] = segments[:, END] - len(sequences.template.after)
    return segments


def segment_tokens(
    sequences: PairSequences, documents: np.ndarray, segments: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The token ids of N segments end to end, int32, and the length of each, int64 [N].

    documents: int64 [N], the document of each segment; segments: int64 [N, 7].
    """
    template = sequences.template
    before, separator = (np.asarray(ids, dtype=np.int32) for ids in (template.before, template.separator))
    chosen, own = np.unique(documents, return_inverse=True)
    texts = [sequences.text(document) for document in chosen.tolist()]
    sources = [before, separator, sequences.all_endings, *texts]
    begins = np.cumsum([0, *map(len, sources)])
    endings = begins[2] + sequences.ending_starts[segments[:, QUERY]]
    starts, lengths = (np.zeros((len(segments), 5), dtype=np.int64) for _ in range(2))
    roots = segments[:, PARENT] < 0
    lengths[:, 0] = len(before) * roots
    if template.query_leads:
        asked = sequences.ending_lengths[segments[:, QUERY]] - len(template.after)
        starts[:, 1], lengths[:, 1] = endings, asked * roots
    starts[:, 2], lengths[:, 2] = begins[3:][own] + segments[:, FROM], segments[:, TO] - segments[:, FROM]
    starts[:, 3], lengths[:, 3] = begins[1], len(separator) * segments[:, CUT]
    starts[:, 4], lengths[:, 4] = endings + segments[:, START], segments[:, END] - segments[:, START]
    return np.concatenate(sources)[places_of(starts.reshape(-1), lengths.reshape(-1))], lengths.sum(1)
