"""Scores of planned batches."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ssmrank.collections.store import Texts
from ssmrank.errors import UserError
from ssmrank.io.trec import Run
from ssmrank.models.packing import moved
from ssmrank.models.precision import Precision, autocast
from ssmrank.models.reranker import Reranker
from ssmrank.reranking.batches import plan_batches
from ssmrank.reranking.planner import pairs_of
from ssmrank.reranking.sequences import PairSequences

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
    ids = list(dict.fromkeys(pair.document for pair in pairs))
    texts = reranker.template.tokenize_documents([documents[id] for id in ids])
    sequences = PairSequences(
        reranker.template, reranker.settings.max_length, pairs, queries, dict(zip(ids, texts, strict=True))
    )
    scores = score_sequences(reranker, sequences, token_budget, precision, device)
    reranked: Run = {query: [] for query in run}
    for pair, score in zip(pairs, scores.tolist(), strict=True):
        if not math.isfinite(score):
            raise UserError(f"score of query {pair.query}, document {pair.document} is {score}; set precision: fp32")
        reranked[pair.query].append((pair.document, score))
    return reranked


@torch.inference_mode()
def score_sequences(
    reranker: Reranker,
    sequences: PairSequences,
    token_budget: int,
    precision: Precision,
    device: torch.device,
    share: bool = True,
) -> np.ndarray:
    """Scores, float32 [pairs], of token sequences, computed in batches of at most `token_budget` tokens.

    share: compute once what the sequences of a document begin with, where the model can.
    """
    reranker.to(device).eval()
    if precision == "bf16":
        _halve_matrices(reranker)
    can_share = reranker.can_fork and reranker.template.order == "document-first"
    scores = np.empty(len(sequences), dtype=np.float32)
    start = last_report = time.monotonic()
    done = 0
    for batch in plan_batches(sequences, token_budget, share and can_share):
        packed, pairs = batch.pack(sequences)
        with autocast(precision, device):
            scores[pairs] = reranker.scores(moved(packed, device)).cpu().numpy()
        done += batch.size
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
