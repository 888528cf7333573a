"""A run from a run: plans what is computed, computes it and puts the scores where they belong."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ssmrank.collections.store import Texts
from ssmrank.collector import collector_blind_to_the_past, collector_paused
from ssmrank.errors import UserError
from ssmrank.io.trec import Run
from ssmrank.models.precision import Precision
from ssmrank.models.reranker import Reranker
from ssmrank.reranking.batches import Batch, plan_batches
from ssmrank.reranking.passages import PassageTokens, best_passage
from ssmrank.reranking.planner import Pair, pairs_of
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.sequences import PairSequences, Tokens
from ssmrank.reranking.state import RerankingState

log = logging.getLogger(__name__)

_REPORT_SECONDS = 10.0


@dataclass(frozen=True)
class Passages:
    """Windows of `length` tokens, `stride` apart, of which the best one counts."""

    length: int
    stride: int


@dataclass(frozen=True, eq=False)
class Work:
    """All that a reranking computes.

    pairs: of the run, in its order; owners: int64, for each of the sequences the pair that it belongs to.
    """

    pairs: list[Pair]
    sequences: PairSequences
    owners: np.ndarray
    batches: list[Batch]

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return sum(batch.tokens(self.sequences) for batch in self.batches)

    @property
    def all_tokens(self) -> int:
        """Tokens of all sequences, each whole."""
        return int(self.sequences.lengths.sum())


@collector_paused()
def plan_work(
    reranker: Reranker,
    run: Run,
    queries: Mapping[str, str],
    documents: Tokens,
    depth: int,
    token_budget: int,
    passages: Passages | None = None,
    share: bool = True,
) -> Work:
    """What is to be computed for the first `depth` documents of each query; the same for the same arguments.

    documents: the documents' tokens, as `Template.tokenize_documents` gives them; share: compute once what the
    sequences of a document begin with, where the model can. Raises UserError for a query that `queries` lacks.
    """
    pairs = pairs_of(run, depth)
    template = reranker.template
    asked, owners = pairs, np.arange(len(pairs))
    if passages is not None:
        documents = PassageTokens(template, documents, passages.length, passages.stride)
        asked, owners = documents.expand(pairs)
    sequences = PairSequences(template, reranker.settings.max_length, asked, queries, documents)
    share = share and reranker.can_fork and template.order == "document-first"
    return Work(pairs, sequences, owners, plan_batches(sequences, token_budget, share))


def score(
    reranker: Reranker,
    work: Work,
    precision: Precision,
    device: torch.device,
    state: RerankingState | None = None,
    process: int = 0,
    processes: int = 1,
) -> np.ndarray:
    """Scores of the sequences, float32, in batches as planned; takes the model over.

    With a state, finished batches are written there and not computed again. Of several processes each computes its
    share; the scores that are missing to this one are then NaN.
    """
    scores = np.full(len(work.sequences), np.nan, dtype=np.float32)
    done: set[int] = set()
    if state is not None:
        state.mend(process)
        for number, (pairs, found) in state.finished().items():
            scores[pairs] = found
            done.add(number)
        if done:
            log.info("goes on from %d finished batches of %d", len(done), len(work.batches))
    left = [(number, batch) for number, batch in enumerate(work.batches) if number % processes == process]
    left = [(number, batch) for number, batch in left if number not in done]
    progress = _Progress(batch for _, batch in left)
    with collector_blind_to_the_past():
        for number, pairs, found in Scorer(reranker, work.sequences, precision, device).run(left):
            if state is not None:
                state.add(process, number, pairs, found)
            scores[pairs] = found
            progress.count(work.batches[number])
    return scores


@collector_paused()
def reranked(run: Run, work: Work, scores: np.ndarray) -> Run:
    """The run with the scores of its pairs; queries and documents in the run's order.

    Raises UserError for a score that is no number.
    """
    if len(work.pairs) < len(work.sequences):
        scores = best_passage(scores, work.owners, len(work.pairs))
    odd = np.flatnonzero(~np.isfinite(scores))
    if len(odd):
        pair, value = work.pairs[odd[0]], scores[odd[0]]
        raise UserError(f"score of query {pair.query}, document {pair.document} is {value}; set precision: fp32")
    result: Run = {query: [] for query in run}
    for (query, document), value in zip(work.pairs, scores.tolist(), strict=True):
        result[query].append((document, value))
    return result


def fingerprint(work: Work, *facts: str) -> str:
    """Names what is computed: the plan, and what else the scores depend on."""
    digest = hashlib.sha256()
    for part in (*facts, *work.sequences.queries, *work.sequences.documents):
        digest.update(part.encode() + b"\0")
    for array in (work.sequences.query, work.sequences.document, work.sequences.lengths):
        digest.update(array.tobytes())
    digest.update(np.array([batch.cost for batch in work.batches], dtype=np.int64).tobytes())
    return digest.hexdigest()


def rerank(
    reranker: Reranker,
    run: Run,
    queries: Mapping[str, str],
    documents: Texts,
    depth: int,
    token_budget: int,
    precision: Precision,
    device: torch.device,
    passages: Passages | None = None,
    share: bool = True,
) -> Run:
    """All of the above for texts in memory: the run with new scores. Raises UserError as these do."""
    ids = list(dict.fromkeys(pair.document for pair in pairs_of(run, depth)))
    tokens = dict(zip(ids, reranker.template.tokenize_documents([documents[id] for id in ids]), strict=True))
    work = plan_work(reranker, run, queries, tokens, depth, token_budget, passages, share)
    return reranked(run, work, score(reranker, work, precision, device))


class _Progress:
    """Logs pairs per second and the time left, which goes by tokens: the longest sequences come first."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        todo = list(batches)
        self.pairs, self.cost = sum(batch.size for batch in todo), sum(batch.cost for batch in todo)
        self.done = self.done_cost = 0
        self.start = self.last_report = time.monotonic()

    def count(self, batch: Batch) -> None:
        """Takes a finished batch."""
        self.done += batch.size
        self.done_cost += batch.cost
        now = time.monotonic()
        if now - self.last_report < _REPORT_SECONDS and self.done < self.pairs:
            return
        self.last_report = now
        elapsed = max(now - self.start, 1e-9)
        left = int(elapsed * (self.cost - self.done_cost) / self.done_cost)
        log.info(
            "%d/%d pairs  %.1f pairs/s  %d:%02d left",
            self.done,
            self.pairs,
            self.done / elapsed,
            left // 60,
            left % 60,
        )
