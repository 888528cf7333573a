"""Scores pairs of texts, and keeps the state of each document for later calls.

A causal model that reads the document first computes the same for each query up to the document's end. This state stays
in memory, or is on disk. A document that is asked for again costs only its query's tokens, whichever call asks. Scores
differ from those of whole sequences as two batches do: in the last bits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ssmrank.errors import UserError
from ssmrank.io.sizes import show_bytes
from ssmrank.models.kept_states import StatePool
from ssmrank.models.token_budget import budget_batches
from ssmrank.reranking.document_prefixes import MOST_STEPS, Document, PairSplitter, Prefix, SplitPair
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.state_cache import StateCache
from ssmrank.reranking.state_folder import StateFolder, checkpoint_digest
from ssmrank.reranking.state_loading import Loading, loading_rule
from ssmrank.reranking.state_passes import Progress, StatePasses, whole_scores, why_no_states

log = logging.getLogger(__name__)

_LOOK_AGAIN = 5.0
"""Seconds after which a folder is looked at again for states that were written since."""


class PairScore(NamedTuple):
    """A pair's score; cached: whether its document's state was there and not computed."""

    score: float
    cached: bool


@dataclass(frozen=True)
class StateStats:
    """What became of the documents of all calls, each counted once a call.

    hits: their state was in memory; loads: it was loaded from disk; misses: it was computed; evictions: states that had
    to go; states, bytes: what is in memory now; budget: the most bytes.
    """

    hits: int = 0
    loads: int = 0
    misses: int = 0
    evictions: int = 0
    states: int = 0
    bytes: int = 0
    budget: int = 0


class StateScorer:
    """Scores pairs of texts with a model, for several threads.

    budget: bytes for the states of documents in memory; folder: states on disk, which are read only; loading: when they
    are loaded. A model that cannot share documents, such as an encoder, keeps no states and scores whole sequences; a
    line of the log says so. Raises UserError if such a model is to read states from disk.
    """

    def __init__(
        self,
        scorer: Scorer,
        token_budget: int,
        budget: int,
        *,
        state_dtype: torch.dtype | None = None,
        folder: StateFolder | None = None,
        loading: Loading = "measured",
        name: str = "model",
    ) -> None:
        self._scorer, self._token_budget = scorer, token_budget
        self._splitter = PairSplitter(scorer.reranker.template, scorer.reranker.settings.max_length)
        self._computing = threading.Lock()
        self._stats = StateStats(budget=budget)
        self._states: _States | None = None
        why = why_no_states(scorer.reranker)
        if why:
            if folder is not None:
                raise UserError(f"{name} keeps no states of documents, so none can be loaded: {why}; give no folder")
            log.warning("%s keeps no states of documents: %s", name, why)
            return
        self._states = _States(
            StatePasses(scorer), token_budget, budget, state_dtype, scorer.reranker.settings.max_length
        )
        if folder is not None:
            self._states.read_from(folder, loading)

    @property
    def keeps_states(self) -> bool:
        """Whether states are kept."""
        return self._states is not None

    def score(self, pairs: Sequence[tuple[str, str]], progress: Progress | None = None) -> list[PairScore]:
        """Scores of (query, document) texts, in the order given.

        The documents of all queries share their states, and equal pairs are scored once. Too long documents and queries
        are cut as `ssmrank.Reranker.score` does. progress: called after each batch with the number of different pairs
        scored so far and the number of all. Raises UserError if a text has half of a surrogate pair, and if a score is
        NaN or infinite.
        """
        queries = {query: place for place, query in enumerate(dict.fromkeys(query for query, _ in pairs))}
        texts = {text: place for place, text in enumerate(dict.fromkeys(text for _, text in pairs))}
        asked, documents = self.queries(list(queries)), self.documents(list(texts))
        return self.score_sides([(asked[queries[query]], documents[texts[text]]) for query, text in pairs], progress)

    def queries(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The query side of each text, int32 ids, for `score_sides`. Raises UserError as `score` does."""
        with _surrogates_named():
            return self._splitter.queries(texts)

    def documents(self, texts: Sequence[str]) -> list[Document]:
        """Documents for `score_sides`, which `score` then finds too, while another thread scores.

        Raises UserError as `score` does.
        """
        with _surrogates_named():
            return self._splitter.documents(texts)

    def document_sides(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The uncut document side of each text, int32 ids."""
        return self._splitter.document_sides(texts)

    def documents_of(self, sides: Sequence[np.ndarray]) -> list[Document]:
        """Documents of document sides, int32 ids, such as those of passages."""
        return self._splitter.documents_of(sides)

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each document has, uncut. They are remembered, so `score` need not tokenize them again."""
        return [document.size for document in self.documents(texts)]

    def score_sides(
        self, sides: Sequence[tuple[np.ndarray, Document]], progress: Progress | None = None
    ) -> list[PairScore]:
        """The same as `score` for sides from `queries` and `documents`."""
        if not sides:
            return []
        numbers: dict[tuple[int, int], int] = {}
        places = [numbers.setdefault((id(query), id(document)), len(numbers)) for query, document in sides]
        _, firsts = np.unique(places, return_index=True)
        unique = [sides[place] for place in firsts.tolist()]
        split = [] if self._states is None else [self._splitter.split(*pair) for pair in unique]
        with self._computing:
            report = progress or _nothing
            if self._states is None:
                scores, cached = self._whole(unique, report)
            else:
                scores, cached = self._scored(self._with_shorter(self._states, split, unique), report)
        odd = np.flatnonzero(~np.isfinite(scores))
        if len(odd):
            raise UserError(f"the score of {len(odd)} of {len(scores)} pairs is NaN or infinite; set precision fp32")
        found = [PairScore(*scored) for scored in zip(scores.tolist(), cached.tolist(), strict=True)]
        return [found[place] for place in places]

    def stats(self) -> StateStats | None:
        """The stats so far; None if no states are kept."""
        if self._states is None:
            return None
        cache = self._states.cache
        return replace(self._stats, evictions=cache.evictions, states=len(cache), bytes=cache.bytes)

    def _whole(self, sides: list[tuple[np.ndarray, Document]], progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        reranker = self._scorer.reranker
        max_length = reranker.settings.max_length
        sequences = [reranker.template.join(query, document.tokens, max_length) for query, document in sides]
        scores = whole_scores(self._scorer, sequences, self._token_budget, progress)
        return scores, np.zeros(len(sides), dtype=bool)

    def _with_shorter(
        self, states: _States, split: list[SplitPair], sides: list[tuple[np.ndarray, Document]]
    ) -> list[SplitPair]:
        """The pairs, where a long document begins with a shorter prefix if only the shorter one's state is there."""
        changed = list(split)
        for place, pair in enumerate(split):
            if pair.long and not states.has(pair.prefix.key):
                shorter = [self._splitter.split(*sides[place], steps) for steps in range(1, MOST_STEPS + 1)]
                changed[place] = next((other for other in shorter if states.has(other.prefix.key)), pair)
        return changed

    def _scored(self, split: list[SplitPair], progress: Progress) -> tuple[np.ndarray, np.ndarray]:
        assert self._states is not None
        states = self._states
        owners: dict[bytes, list[int]] = {}
        for place, pair in enumerate(split):
            owners.setdefault(pair.prefix.key, []).append(place)
        prefixes = [split[places[0]].prefix for places in owners.values()]
        found = {prefix.key for prefix in prefixes if prefix.key in states.cache}
        hits = len(found)
        scores, done = np.empty(len(split), dtype=np.float32), 0
        for wave in states.cache.waves(prefixes):
            found |= states.make_ready(wave)
            for batch in states.batches(split, [place for prefix in wave for place in owners[prefix.key]]):
                scores[batch] = states.scores([split[place] for place in batch])
                done += len(batch)
                progress(done, len(split))
        before = self._stats
        self._stats = replace(
            before,
            hits=before.hits + hits,
            loads=before.loads + len(found) - hits,
            misses=before.misses + len(prefixes) - len(found),
        )
        return scores, np.array([pair.prefix.key in found for pair in split])


class _States:
    """The states of a model's documents in memory, and perhaps on disk."""

    def __init__(
        self, passes: StatePasses, token_budget: int, budget: int, dtype: torch.dtype | None, max_length: int
    ) -> None:
        self._passes, self._token_budget, self._dtype, self._max_length = passes, token_budget, dtype, max_length
        empty = passes.pool(0, dtype)
        largest = empty.bytes_of(max_length)
        if largest > budget:
            raise UserError(
                f"state_cache {show_bytes(budget)}: has no room for one document's state; give at least "
                f"{show_bytes(largest)}"
            )
        try:
            pool = passes.pool(budget // max(1, empty.bytes_of(1)), dtype)
        except (OSError, RuntimeError, OverflowError) as error:
            raise UserError(f"state_cache {show_bytes(budget)}: the device has no such memory; give less") from error
        self.cache = StateCache(pool, budget)
        self._folder: StateFolder | None = None

    def read_from(self, folder: StateFolder, loading: Loading) -> None:
        """From now on loads states from a folder, by a rule that a line of the log states."""
        pool = self._passes.pool(16, self._dtype)
        self._folder = folder
        self._rule = loading_rule(loading, folder, pool, self._max_length, partial(self._measured_pass, pool))
        if len(folder):
            log.info("%d states of documents in %s: %s", len(folder), folder.path, self._rule)
        else:
            log.warning(
                "%s: has no states for this checkpoint and precision yet; `ssmrank states` makes them", folder.path
            )

    def has(self, key: bytes) -> bool:
        """Whether a state is in memory or on disk."""
        return key in self.cache or (self._folder is not None and key in self._folder)

    def make_ready(self, wave: list[Prefix]) -> set[bytes]:
        """Loads or computes missing states; returns the keys of those that were loaded.

        All states of the wave are then in memory, because they fit into the budget.
        """
        self.cache.touch(prefix.key for prefix in wave if prefix.key in self.cache)
        missing = [prefix for prefix in wave if prefix.key not in self.cache]
        loaded = self._loaded(missing) if missing and self._folder is not None else set()
        left = [prefix for prefix in missing if prefix.key not in loaded]
        for batch in budget_batches([len(prefix.tokens) for prefix in left], self._token_budget):
            self._compute([left[place] for place in batch.tolist()])
        return loaded

    def scores(self, pairs: list[SplitPair]) -> np.ndarray:
        """Scores, float32, of pairs whose documents' states are in memory."""
        return self._passes.scores(pairs, self.cache.pool, [self.cache.slot(pair.prefix.key) for pair in pairs])

    def batches(self, split: list[SplitPair], places: list[int]) -> Iterator[list[int]]:
        """The pairs in batches; pairs of one document are neighbours."""
        batch: list[int] = []
        filled, last = 0, b""
        for place in places:
            cost = self._passes.cost(split[place], split[place].prefix.key != last)
            last = split[place].prefix.key
            if batch and filled + cost > self._token_budget:
                yield batch
                batch, filled = [], 0
            batch.append(place)
            filled += cost
        yield batch

    def _loaded(self, missing: list[Prefix]) -> set[bytes]:
        assert self._folder is not None
        folder, found = self._folder, set()
        folder.refresh(_LOOK_AGAIN)
        chosen = [prefix for prefix in missing if prefix.key in folder and self._loads(prefix)]
        slots = self.cache.take(chosen)
        for prefix, slot in zip(chosen, slots, strict=True):
            if folder.load(prefix, self.cache.pool, slot):
                self.cache.add([prefix], [slot])
                found.add(prefix.key)
            else:
                self.cache.give_back([slot])
        return found

    def _loads(self, prefix: Prefix) -> bool:
        assert self._folder is not None
        return self._rule.loads(self._folder.size(prefix.key), len(prefix.tokens))

    def _compute(self, prefixes: list[Prefix]) -> None:
        slots = self.cache.take(prefixes)
        try:
            self._passes.keep(prefixes, self.cache.pool, slots)
        except BaseException:
            self.cache.give_back(slots)
            raise
        self.cache.add(prefixes, slots)

    def _measured_pass(self, pool: StatePool, prefixes: list[Prefix]) -> None:
        slots = [pool.take(len(prefix.tokens)) for prefix in prefixes]
        self._passes.keep(prefixes, pool, slots)
        for slot in slots:
            pool.give_back(slot)


@contextmanager
def _surrogates_named() -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError as error:
        raise UserError("a text has half of a surrogate pair; decode it again") from error


def _nothing(done: int, count: int) -> None:
    """Reports no progress."""


def state_scorer(
    scorer: Scorer,
    checkpoint: Path,
    token_budget: int,
    budget: int,
    state_folder: Path | None = None,
    *,
    state_dtype: torch.dtype | None = None,
    loading: Loading = "measured",
    name: str | None = None,
) -> StateScorer:
    """A scorer whose states may also be in a folder; checkpoint: the folder that the model was loaded from."""
    folder = None
    if state_folder is not None:
        folder = StateFolder(state_folder, checkpoint_digest(checkpoint), scorer.precision)
    return StateScorer(
        scorer,
        token_budget,
        budget,
        state_dtype=state_dtype,
        folder=folder,
        loading=loading,
        name=name or str(checkpoint),
    )
