"""Reranks a run: plans what is computed, computes it, and assigns the scores to the pairs."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from ssmrank.config.rerankings import Deterministic
from ssmrank.errors import UserError
from ssmrank.gc_control import gc_frozen, gc_paused
from ssmrank.io.pairs import Pairs, pairs_of
from ssmrank.io.texts import Texts
from ssmrank.io.trec import Run
from ssmrank.lock_turns import short_turns
from ssmrank.models.precision import Precision
from ssmrank.models.reranker import Reranker
from ssmrank.models.templates import PAIR, LongQueries
from ssmrank.prefetch import Prefetched
from ssmrank.reranking.batches import Batch, plan_batches
from ssmrank.reranking.passages import PassageTokens, best_passage
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.sequences import PairSequences, Tokens
from ssmrank.reranking.state import RerankingState

log = logging.getLogger(__name__)

_REPORT_SECONDS = 10.0


@dataclass(frozen=True)
class PassageWindows:
    """Windows of `length` tokens whose starts are `stride` tokens apart. The best one gives the score."""

    length: int
    stride: int

    def __post_init__(self) -> None:
        if self.length < 1 or self.stride < 1:
            raise UserError(f"passages: length {self.length}, stride {self.stride}; both are at least 1 token")


@dataclass(frozen=True, eq=False)
class Work:
    """Everything that is computed for some pairs.

    owners: int64, the pair that each sequence belongs to.
    """

    pairs: Pairs
    sequences: PairSequences
    owners: np.ndarray
    batches: list[Batch]

    @cached_property
    def tokens(self) -> int:
        """How many tokens are computed."""
        return sum(batch.tokens for batch in self.batches)

    @property
    def all_tokens(self) -> int:
        """How many tokens all sequences have without sharing."""
        return int(self.sequences.lengths.sum())


class Part(NamedTuple):
    """Work for some of a run's pairs; places: int64, their indices in the run; state: finished batches."""

    work: Work
    places: np.ndarray
    state: RerankingState | None = None


@gc_paused()
def plan_work(
    reranker: Reranker,
    pairs: Pairs,
    queries: Mapping[str, str],
    documents: Tokens,
    token_budget: int,
    passages: PassageWindows | None = None,
    share: bool = True,
    long_queries: LongQueries = "cut",
    deterministic: Deterministic | None = None,
) -> Work:
    """Plans what is computed for the pairs; the same arguments give the same plan.

    documents: tokens from `Template.tokenize_documents`; share: whether the shared prefix of a document's sequences is
    computed once, if the model allows it; long_queries: how a query that leaves no room for a document is treated;
    deterministic: "batch": what a pair's sequence is divided into depends on the pair alone.
    Raises UserError for a query that `queries` lacks.
    """
    template = reranker.template
    asked, owners = pairs, np.arange(len(pairs))
    if passages is not None:
        documents = PassageTokens(template, documents, passages.length, passages.stride)
        asked, owners = documents.expand(pairs)
    sequences = PairSequences(template, reranker.settings.max_length, asked, queries, documents, long_queries)
    can_share = reranker.can_share_prefixes and template.order != PAIR
    fixed = deterministic == "batch" and can_share and not template.query_leads
    if deterministic == "batch" and template.query_leads:
        can_share = False  # whether a query's prefix is shared depends on its other documents
    return Work(pairs, sequences, owners, plan_batches(sequences, token_budget, share and can_share, fixed))


def score(
    reranker: Reranker,
    work: Work,
    precision: Precision,
    device: torch.device,
    state: RerankingState | None = None,
    process: int = 0,
    processes: int = 1,
    deterministic: Deterministic | None = None,
) -> np.ndarray:
    """Scores of the work's pairs, float32, as in `score_parts`."""
    scorer = Scorer(reranker, precision, device, deterministic=deterministic)
    part = Part(work, np.arange(len(work.pairs)), state)
    return score_parts(scorer, [part], len(work.pairs), process, processes).values


Arrived = Callable[[np.ndarray, np.ndarray], None]
"""Is given the places of pairs, int64, and their scores, float32."""


class TimedScores(NamedTuple):
    """Scores of a run's pairs, float32; seconds: time from the first batch's launch to the last score."""

    values: np.ndarray
    seconds: float


def score_parts(
    scorer: Scorer,
    parts: Iterable[Part],
    count: int,
    process: int = 0,
    processes: int = 1,
    arrived: Arrived | None = None,
) -> TimedScores:
    """Scores of a run's `count` pairs, batch by batch as planned.

    A thread plans the next parts while the device works, unless `parts` are being prefetched already. With a state,
    finished batches are stored and not computed again. Each of several processes computes its share of the batches, and
    another one has made the states ready; scores of pairs that this process did not compute are NaN. arrived: is given
    scores that are final as they arrive.
    """
    in_progress: list[_PartInProgress] = []
    numbers: list[tuple[_PartInProgress, int]] = []

    def batches(planned: Iterable[Part]) -> Iterator[tuple[int, Batch]]:
        for part in planned:
            in_progress.append(_PartInProgress(part, process, processes, arrived))
            for number in in_progress[-1].left:
                numbers.append((in_progress[-1], number))
                yield len(numbers) - 1, part.work.batches[number]

    progress = _Progress(count)
    with parts if isinstance(parts, Prefetched) else Prefetched(parts) as planned, gc_frozen(), short_turns():
        for place, sequences, found in scorer.run(batches(planned)):
            one, number = numbers[place]
            one.finish(number, sequences, found)
            progress.count(one, number, scorer.began)
    seconds = time.perf_counter() - scorer.began if numbers else 0.0
    scores = np.full(count, np.nan, dtype=np.float32)
    for part in in_progress:
        scores[part.places] = scores_of_pairs(part.work, part.scores)
    return TimedScores(scores, seconds)


def finished_scores(parts: Iterable[Part], count: int) -> np.ndarray:
    """Scores of a run's `count` pairs, float32, from the states of its parts; missing scores are NaN."""
    scores = np.full(count, np.nan, dtype=np.float32)
    for work, places, state in parts:
        found = np.full(len(work.sequences), np.nan, dtype=np.float32)
        assert state is not None
        state.finished_into(found)
        scores[places] = scores_of_pairs(work, found)
    return scores


class _PartInProgress:
    """A part that is being scored; left: the batches that this process had to compute when it started."""

    def __init__(self, part: Part, process: int, processes: int, arrived: Arrived | None) -> None:
        self.work, self.places, self._state = part
        self._process = process
        # The score of a pair with several passages is known when the last one has arrived.
        self._arrived = arrived if len(self.work.pairs) == len(self.work.sequences) else None
        self.scores = np.full(len(self.work.sequences), np.nan, dtype=np.float32)
        done: set[int] = set()
        if self._state is not None:
            self._state.repair(process)
            done = self._state.finished_into(self.scores)
            if done:
                log.info("resuming: %d of %d batches are finished", len(done), len(self.work.batches))
        self.left = [number for number in range(process, len(self.work.batches), processes) if number not in done]

    def finish(self, number: int, sequences: np.ndarray, scores: np.ndarray) -> None:
        """Stores the scores, float32, of a batch's sequences, int64."""
        if self._state is not None:
            self._state.add(self._process, number, sequences, scores)
        self.scores[sequences] = scores
        if self._arrived is not None:
            self._arrived(self.places[sequences], scores)


def scores_of_pairs(work: Work, scores: np.ndarray) -> np.ndarray:
    """Scores of the work's pairs, float32, from the scores of its sequences."""
    if len(work.pairs) == len(work.sequences):
        return scores
    return best_passage(scores, work.owners, len(work.pairs))


def check_scores(pairs: Pairs, scores: np.ndarray) -> None:
    """Raises UserError if a pair's score is NaN or infinite."""
    odd = np.flatnonzero(~np.isfinite(scores))
    if len(odd):
        pair, value = pairs[odd[0]], scores[odd[0]]
        raise UserError(f"score of query {pair.query}, document {pair.document} is {value}; set precision: fp32")


@gc_paused()
def reranked(run: Run, pairs: Pairs, scores: np.ndarray) -> Run:
    """The run with the scores of its pairs; queries and documents keep the run's order.

    Raises UserError if a score is NaN or infinite.
    """
    check_scores(pairs, scores)
    documents = zip(map(pairs.documents.__getitem__, pairs.document.tolist()), scores.tolist(), strict=True)
    counts = dict(zip(pairs.queries, np.bincount(pairs.query).tolist(), strict=True))
    return {query: list(islice(documents, counts.get(query, 0))) for query in run}


def fingerprint(work: Work, *facts: str) -> str:
    """A digest of the plan and of `facts`: all that the scores depend on."""
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
    passages: PassageWindows | None = None,
    share: bool = True,
) -> Run:
    """Reranks a run of texts in memory: the run with new scores. Raises UserError as `plan_work` and `reranked` do."""
    pairs = pairs_of(run, depth)
    texts = reranker.template.tokenize_documents([documents[id] for id in pairs.documents])
    tokens = dict(zip(pairs.documents, texts, strict=True))
    work = plan_work(reranker, pairs, queries, tokens, token_budget, passages, share)
    return reranked(run, pairs, score(reranker, work, precision, device))


class _Progress:
    """Logs pairs per second and the time left. The time left is based on tokens, because long sequences come first.

    count: pairs of the run. Parts without a finished batch are assumed to be like the other parts on average.
    """

    def __init__(self, count: int) -> None:
        self._count, self._known = count, 0
        self._parts: set[_PartInProgress] = set()
        self._pairs = self._cost = self._done = self._done_cost = 0
        self._last_report = time.perf_counter()

    def count(self, part: _PartInProgress, number: int, start: float) -> None:
        """Counts a finished batch; start: when the first batch was launched."""
        batches = part.work.batches
        if part not in self._parts:
            self._parts.add(part)
            self._known += len(part.places)
            self._pairs += sum(batches[left].size for left in part.left)
            self._cost += sum(batches[left].cost for left in part.left)
        self._done += batches[number].size
        self._done_cost += batches[number].cost
        pairs, cost = (round(known * self._count / self._known) for known in (self._pairs, self._cost))
        now = time.perf_counter()
        if now - self._last_report < _REPORT_SECONDS and self._done < pairs:
            return
        self._last_report = now
        elapsed = max(now - start, 1e-9)
        left = int(elapsed * (cost - self._done_cost) / self._done_cost)
        log.info(
            "%d/%d pairs  %.1f pairs/s  %d:%02d left",
            *(self._done, pairs, self._done / elapsed, left // 60, left % 60),
        )
