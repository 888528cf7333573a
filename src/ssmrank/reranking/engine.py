"""Scores of planned batches."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from ssmrank.collections.store import Texts
from ssmrank.errors import UserError
from ssmrank.io.trec import Run
from ssmrank.models.packing import pack
from ssmrank.models.precision import Precision, autocast
from ssmrank.models.reranker import Reranker
from ssmrank.reranking.planner import Pair, pairs_of, plan

log = logging.getLogger(__name__)

_REPORT_SECONDS = 10.0


def rerank(
    reranker: Reranker,
    run: Run,
    queries: Mapping[str, str],
    documents: Texts,
    depth: int,
    token_budget: int,
    precision: Precision,
    device: torch.device,
) -> Run:
    """Scores the first `depth` documents of each query; queries keep the run's order.

    Raises UserError for a query or document that the collection does not have.
    """
    pairs = pairs_of(run, depth)
    sequences = tokenize_pairs(reranker, pairs, queries, documents)
    scores = score_sequences(reranker, sequences, token_budget, precision, device)
    reranked: Run = {query: [] for query in run}
    for pair, score in zip(pairs, scores.tolist(), strict=True):
        if not math.isfinite(score):
            raise UserError(f"score of query {pair.query}, document {pair.document} is {score}; set precision: fp32")
        reranked[pair.query].append((pair.document, score))
    return reranked


def tokenize_pairs(
    reranker: Reranker, pairs: Sequence[Pair], queries: Mapping[str, str], documents: Texts
) -> list[np.ndarray]:
    """The token sequence of each pair; each query and document is tokenized once."""
    template, max_length = reranker.template, reranker.settings.max_length
    query_ids = list(dict.fromkeys(pair.query for pair in pairs))
    unknown = next((query for query in query_ids if query not in queries), None)
    if unknown is not None:
        raise UserError(f"query {unknown}: in the run, unknown to the collection's split; rerank a run of this split")
    document_ids = list(dict.fromkeys(pair.document for pair in pairs))
    query_tokens = dict(zip(query_ids, template.tokenize_queries([queries[q] for q in query_ids]), strict=True))
    texts = [documents[document] for document in document_ids]
    document_tokens = dict(zip(document_ids, template.tokenize_documents(texts), strict=True))
    return [
        template.join(query_tokens[pair.query], document_tokens[pair.document], max_length, pair.query)
        for pair in pairs
    ]


@torch.inference_mode()
def score_sequences(
    reranker: Reranker, sequences: Sequence[np.ndarray], token_budget: int, precision: Precision, device: torch.device
) -> np.ndarray:
    """Scores, float32 [pairs], of token sequences, computed in batches of at most `token_budget` tokens."""
    reranker.to(device).eval()
    if precision == "bf16":
        _halve_matrices(reranker)
    scores = np.empty(len(sequences), dtype=np.float32)
    start = last_report = time.monotonic()
    done = 0
    for batch in plan([len(sequence) for sequence in sequences], token_budget):
        packed = pack([sequences[index] for index in batch], device)
        with autocast(precision, device):
            scores[batch] = reranker(packed).cpu().numpy()
        done += len(batch)
        now = time.monotonic()
        if now - last_report >= _REPORT_SECONDS or done == len(sequences):
            last_report = now
            rate = done / max(now - start, 1e-9)
            left = int((len(sequences) - done) / rate)
            log.info("%d/%d pairs  %.0f pairs/s  %d:%02d left", done, len(sequences), rate, left // 60, left % 60)
    return scores


def _halve_matrices(reranker: Reranker) -> None:
    """Stores what matrix products read as bf16, once; norms and Mamba's own parameters stay float32."""
    for module in reranker.modules():
        if isinstance(module, nn.Linear) and module is not reranker.head:
            module.to(torch.bfloat16)
