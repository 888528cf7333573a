"""Scores pairs of texts, and keeps the state of each document for later calls.

A causal model that reads the document first computes the same for each query up to the document's end. This state stays
in memory. A document that is asked for again costs only its query's tokens, whichever call asks. Scores differ from
those of whole sequences as two batches do: in the last bits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ssmrank.errors import UserError
from ssmrank.io.sizes import show_bytes
from ssmrank.models.kept_states import StatePool, state_shapes
from ssmrank.models.packing import moved, pack
from ssmrank.models.precision import Precision, autocast
from ssmrank.models.reranker import load_reranker
from ssmrank.models.token_budget import budget_batches
from ssmrank.reranking.document_prefixes import Document, PairSplitter, Prefix, SplitPair
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.state_cache import StateCache

log = logging.getLogger(__name__)

_STATE_TOKENS = 24
"""The tokens of a batch that stand for a state which is gathered for it."""

_KEY_TOKENS = 8
"""The tokens of a prefix whose keys and values stand for one token of a batch."""


Progress = Callable[[int, int], None]


class PairScore(NamedTuple):
    """A pair's score; cached: whether its document's state was there before the call."""

    score: float
    cached: bool


@dataclass(frozen=True)
class StateStats:
    """What became of the documents of all calls, each counted once a call.

    hits: their state was in memory; misses: it was not; evictions: states that had to go; states, bytes: what is in
    memory now; budget: the most bytes.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    states: int = 0
    bytes: int = 0
    budget: int = 0


class StateScorer:
    """Scores pairs of texts with a model, for several threads.

    budget: bytes for the states of documents. A model that cannot share documents, such as an encoder, keeps no states
    and scores whole sequences; a line of the log says so.
    """

    def __init__(
        self,
        scorer: Scorer,
        token_budget: int,
        budget: int,
        state_dtype: torch.dtype | None = None,
        name: str = "model",
    ) -> None:
        self._scorer, self._token_budget = scorer, token_budget
        reranker = scorer.reranker
        self._splitter = PairSplitter(reranker.template, reranker.settings.max_length)
        self._tokenizing, self._computing = threading.Lock(), threading.Lock()
        self._stats = StateStats(budget=budget)
        self._cache: StateCache | None = None
        if not keeps_states(scorer):
            log.warning("%s keeps no states of documents: %s", name, why_no_states(scorer))
            return
        with torch.inference_mode(), autocast(scorer.precision, scorer.device):
            shapes = state_shapes(reranker.backbone, scorer.device)
        fixed = StatePool(shapes, 0, scorer.device, state_dtype)
        largest = fixed.bytes_of(reranker.settings.max_length)
        if largest > budget:
            raise UserError(
                f"state_cache {show_bytes(budget)}: has no room for one document's state; give at least "
                f"{show_bytes(largest)}"
            )
        slots = budget // max(1, fixed.bytes_of(1))
        self._cache = StateCache(StatePool(shapes, slots, scorer.device, state_dtype), budget)

    @property
    def keeps_states(self) -> bool:
        """Whether states are kept."""
        return self._cache is not None

    def score(self, pairs: Sequence[tuple[str, str]], progress: Progress | None = None) -> list[PairScore]:
        """Scores of (query, document) texts, in the order given.

        progress: called after each batch with the number of different pairs scored so far and the number of all.

        The documents of all queries share their states, and equal pairs are scored once. Too long documents and queries
        are cut as `ssmrank.Reranker.score` does. Raises UserError if a text is half of a surrogate pair, and if a score
        is NaN or infinite.
        """
        if not pairs:
            return []
        unique = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        with self._tokenizing:
            sides = self._sides(list(unique))
            split = [] if self._cache is None else [self._splitter.split(*pair) for pair in sides]
        with self._computing:
            report = progress or _nothing
            scores, cached = self._whole(sides, report) if self._cache is None else self._scored(split, report)
        odd = np.flatnonzero(~np.isfinite(scores))
        if len(odd):
            raise UserError(f"the score of {len(odd)} of {len(scores)} pairs is NaN or infinite; set precision fp32")
        found = [PairScore(*scored) for scored in zip(scores.tolist(), cached.tolist(), strict=True)]
        return [found[unique[pair]] for pair in pairs]

    def stats(self) -> StateStats | None:
        """The stats so far; None if no states are kept."""
        cache = self._cache
        if cache is None:
            return None
        return replace(self._stats, evictions=cache.evictions, states=len(cache), bytes=cache.bytes)

    def _sides(self, pairs: list[tuple[str, str]]) -> list[tuple[np.ndarray, Document]]:
        """Each pair's query side and document."""
        queries = {query: place for place, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
        documents = {text: place for place, text in enumerate(dict.fromkeys(text for _, text in pairs))}
        try:
            asked, sides = self._splitter.queries(list(queries)), self._splitter.documents(list(documents))
        except UnicodeEncodeError as error:
            raise UserError("a text has half of a surrogate pair; decode it again") from error
        return [(asked[queries[query]], sides[documents[text]]) for query, text in pairs]

    def _whole(self, sides: list[tuple[np.ndarray, Document]], progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        done = 0
        template, max_length = self._scorer.reranker.template, self._scorer.reranker.settings.max_length
        sequences = [template.join(query, document.tokens, max_length) for query, document in sides]
        scores = np.empty(len(sides), dtype=np.float32)
        for batch in budget_batches([len(sequence) for sequence in sequences], self._token_budget):
            packed = pack([sequences[place] for place in batch.tolist()])
            with torch.inference_mode(), autocast(self._scorer.precision, self._scorer.device):
                scores[batch] = self._scorer.reranker.scores(moved(packed, self._scorer.device)).cpu().numpy()
            done += len(batch)
            progress(done, len(sides))
        return scores, np.zeros(len(sides), dtype=bool)

    def _scored(self, split: list[SplitPair], progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        cache = self._cache
        assert cache is not None
        owners: dict[bytes, list[int]] = {}
        for place, pair in enumerate(split):
            owners.setdefault(pair.prefix.key, []).append(place)
        prefixes = [split[places[0]].prefix for places in owners.values()]
        there = {prefix.key for prefix in prefixes if prefix.key in cache}
        self._stats = replace(
            self._stats,
            hits=self._stats.hits + len(there),
            misses=self._stats.misses + len(prefixes) - len(there),
        )
        scores, done = np.empty(len(split), dtype=np.float32), 0
        for wave in cache.waves(prefixes):
            self._make_ready([prefix for prefix in wave if prefix.key not in cache], wave)
            for batch in self._batches(split, [place for prefix in wave for place in owners[prefix.key]]):
                scores[batch] = self._continued([split[place] for place in batch])
                done += len(batch)
                progress(done, len(split))
        return scores, np.array([pair.prefix.key in there for pair in split])

    def _make_ready(self, missing: list[Prefix], wave: list[Prefix]) -> None:
        """Computes missing states. All states of the wave are then in memory, because they fit into the budget."""
        cache = self._cache
        assert cache is not None
        cache.touch(prefix.key for prefix in wave if prefix.key in cache)
        for batch in budget_batches([len(prefix.tokens) for prefix in missing], self._token_budget):
            self._compute([missing[place] for place in batch.tolist()])

    def _compute(self, prefixes: list[Prefix]) -> None:
        cache, device = self._cache, self._scorer.device
        assert cache is not None
        slots = cache.take(prefixes)
        try:
            with torch.inference_mode(), autocast(self._scorer.precision, device):
                packed = moved(pack([prefix.tokens for prefix in prefixes]), device)
                self._scorer.reranker.scores(cache.pool.keeping(packed, slots))
        except BaseException:
            cache.give_back(slots)
            raise
        cache.add(prefixes, slots)

    def _batches(self, split: list[SplitPair], places: list[int]) -> Iterator[list[int]]:
        """The pairs in batches; pairs of one document are neighbours."""
        assert self._cache is not None
        batch: list[int] = []
        filled, last = 0, b""
        for place in places:
            prefix, suffix = split[place]
            cost = len(suffix)
            if prefix.key != last:
                cost += _STATE_TOKENS if self._cache.pool.shapes.scans else 0
                cost += len(prefix.tokens) // _KEY_TOKENS if self._cache.pool.shapes.keys else 0
                last = prefix.key
            if batch and filled + cost > self._token_budget:
                yield batch
                batch, filled = [], 0
            batch.append(place)
            filled += cost
        yield batch

    def _continued(self, pairs: list[SplitPair]) -> np.ndarray:
        """Scores of pairs whose documents' states are in memory."""
        cache, device = self._cache, self._scorer.device
        assert cache is not None
        slots = [cache.slot(pair.prefix.key) for pair in pairs]
        with torch.inference_mode(), autocast(self._scorer.precision, device):
            packed = moved(pack([pair.suffix for pair in pairs]), device)
            return self._scorer.reranker.scores(cache.pool.continuing(packed, slots)).cpu().numpy()


def _nothing(done: int, count: int) -> None:
    """Reports no progress."""


def keeps_states(scorer: Scorer) -> bool:
    """Whether a model's documents have states that later queries can start from."""
    return not why_no_states(scorer)


def why_no_states(scorer: Scorer) -> str:
    """Why a model's documents have no states, for a message; empty if they have."""
    reranker = scorer.reranker
    if not reranker.can_share_prefixes:
        kind, pooled = reranker.backbone.config.model_type, reranker.settings.pooled
        return f"{kind} with pooling {pooled} does not read a document independently of its query"
    if reranker.template.order != "document-first":
        return f"its template, {reranker.template.order}, does not begin with the document"
    return ""


def open_state_scorer(
    folder: Path,
    device: torch.device,
    precision: Precision,
    token_budget: int = 16384,
    budget: int = 2 * 10**9,
    state_dtype: torch.dtype | None = None,
) -> StateScorer:
    """A scorer with the checkpoint of a folder."""
    return StateScorer(Scorer(load_reranker(folder), precision, device), token_budget, budget, state_dtype, str(folder))
