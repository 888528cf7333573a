"""Reranks a first-stage run from and to files. Its parts are planned while the model is moved and scores."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from ssmrank.config.rerankings import Reranking
from ssmrank.io.checksum import sha256
from ssmrank.io.collection import documents_file, queries_file
from ssmrank.io.pairs import Pairs, ScoreTexts, read_pairs, with_remainder, write_pairs
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.models.architectures import architecture_of
from ssmrank.models.batch_invariance import check_batch_invariance
from ssmrank.models.precision import device_name, resolve_precision
from ssmrank.models.reranker import Reranker, load_reranker
from ssmrank.models.tokens import token_store
from ssmrank.models.varlen_attention import backend
from ssmrank.prefetch import Prefetched
from ssmrank.reranking.engine import (
    Arrived,
    Part,
    PassageWindows,
    TimedScores,
    Work,
    check_scores,
    fingerprint,
    finished_scores,
    plan_work,
    score_parts,
)
from ssmrank.reranking.planner import parts_of
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.state import RerankingState

log = logging.getLogger(__name__)

Scores = Literal["all", "share", "none"]
"""What a process scores: all pairs, a share of them (the process that started it does the rest), or none."""


@dataclass(frozen=True)
class Files:
    """The inputs of a reranking, and the folders for its state and tokens.

    run: the first stage's run; collection: folder; split: the split with the queries; state: folder, removed after the
    reranked run is written; tokens: folder of tokenized texts, which rerankings may share.
    """

    run: Path
    collection: Path
    split: str
    state: Path
    tokens: Path

    @property
    def documents(self) -> Path:
        """The collection's texts."""
        return documents_file(self.collection)

    @property
    def queries(self) -> Path:
        """The split's queries."""
        return queries_file(self.collection, self.split)


@dataclass
class RerankingStats:
    """The stats of a reranking.

    tokens: computed tokens; all_tokens: tokens of all sequences without sharing; before: seconds until the first batch
    is launched; scoring: seconds from there to the last score; writing: seconds from there until the run is written.
    """

    pairs: int = 0
    queries_cut: int = 0
    tokens: int = 0
    all_tokens: int = 0
    before: float = 0.0
    scoring: float = 0.0
    writing: float = 0.0

    def add(self, work: Work) -> None:
        """Adds the counts of a part's work."""
        self.pairs += len(work.pairs)
        self.tokens += work.tokens
        self.all_tokens += work.all_tokens


class FileReranking:
    """A run from files, reranked by a model.

    model: names the model in the state's fingerprint; given: pairs that `read_given` is reading already; scores: what
    this process scores. Errors in files and settings raise UserError, also while a part is planned; the output is then
    not written.
    """

    def __init__(
        self,
        files: Files,
        settings: Reranking,
        reranker: Reranker,
        device: torch.device,
        model: str,
        given: Future[Pairs] | None = None,
        scores: Scores = "all",
    ) -> None:
        self.files, self.settings, self.reranker, self.device, self.model = files, settings, reranker, device, model
        self.precision = resolve_precision(settings.precision, device)
        if settings.deterministic == "batch":  # before anything is planned
            check_batch_invariance(architecture_of(reranker.backbone.config.model_type), self.precision, device)
        self._scores, self._stats = scores, RerankingStats()
        self._asked: Future[_Asked] = Future()
        # Parts are planned while the model is moved to the device and its weights are converted.
        self._parts = Prefetched(self._planned(given))
        try:
            self._scorer = None if scores == "none" else self._new_scorer()
        except BaseException:
            self._parts.close()
            raise

    def write(self, output: Path, tag: str, launch: Callable[[], None] | None = None) -> RerankingStats:
        """Writes the reranked run. launch: starts processes that each call `score_share`, and waits for them."""
        start = time.perf_counter()
        with self._parts:
            given, first, pairs = self._asked.result()
            texts = ScoreTexts(len(pairs))
            if launch is None:
                scores = self._scored(len(pairs), arrived=texts.add)
            else:
                planned = list(self._parts)
                launched = time.perf_counter()
                launch()
                scores = TimedScores(finished_scores(planned, len(pairs)), time.perf_counter() - launched)
        scored = time.perf_counter()
        check_scores(pairs, scores.values)
        write_pairs(output, given, with_remainder(given, first, scores.values), tag, texts.of(first))
        shutil.rmtree(self.files.state, ignore_errors=True)
        stats = self._stats
        stats.before, stats.scoring = scored - start - scores.seconds, scores.seconds
        stats.writing = time.perf_counter() - scored
        return stats

    def score_share(self, process: int, processes: int) -> None:
        """Computes the share of one of several processes. The process that started them has made the states ready."""
        with self._parts:
            self._scored(len(self._asked.result().pairs), process, processes)

    def _planned(self, given: Future[Pairs] | None) -> Iterator[Part]:
        """Yields the parts, each when it is planned."""
        try:
            read = read_given(self.files, self.settings) if given is None else given.result()
            first = read.ranks < self.settings.depth
            asked = _Asked(read, first, read if first.all() else read.at(np.flatnonzero(first)))
            if self._scores != "share":
                self._stats.queries_cut = self._long_queries(asked.pairs)
        except BaseException as error:
            self._asked.set_exception(error)
            return
        self._asked.set_result(asked)
        yield from self._parts_of(asked.pairs)

    def _long_queries(self, pairs: Pairs) -> int:
        """Logs and returns the number of queries that are cut.

        Raises UserError if one must not be cut, before anything is scored.
        """
        template, max_length = self.reranker.template, self.reranker.settings.max_length
        texts = read_queries(self.files.queries)
        known = [query for query in pairs.queries if query in texts]
        queries = template.tokenize_queries([texts[query] for query in known])
        long = template.count_long(queries, max_length)
        if long:
            template.fit_queries(queries, max_length, known, self.settings.long_queries)
            log.warning(
                "%d of %d queries leave no room for a document in max_length %d; they are cut to half of it",
                *(long, len(known), max_length),
            )
        return long

    def _new_scorer(self) -> Scorer:
        return Scorer(self.reranker, self.precision, self.device, deterministic=self.settings.deterministic)

    def _scored(self, count: int, process: int = 0, processes: int = 1, arrived: Arrived | None = None) -> TimedScores:
        assert self._scorer is not None
        return score_parts(self._scorer, self._parts, count, process, processes, arrived)

    def _parts_of(self, pairs: Pairs) -> Iterator[Part]:
        """Yields the parts, each planned on demand. A process that only scores a share finds the states ready."""
        files, settings, reranker = self.files, self.settings, self.reranker
        texts, queries = TextStore(files.documents), read_queries(files.queries)
        passages = PassageWindows(settings.passages.length, settings.passages.stride) if settings.passages else None
        # Passages cover the whole document.
        max_tokens = None if passages else reranker.settings.max_length
        facts = [settings.model_dump_json(exclude={"processes"}), device_name(self.device), self.model]
        facts += [texts.digest, sha256(files.run), sha256(files.queries)]
        for number, places in enumerate(parts_of(pairs, texts.sizes(pairs.documents))):
            chosen = pairs.at(places)
            documents = token_store(texts, reranker.template, files.tokens, chosen.documents, max_tokens)
            work = plan_work(
                reranker,
                chosen,
                queries,
                documents,
                settings.token_budget,
                passages,
                long_queries=settings.long_queries,
                deterministic=settings.deterministic,
            )
            state = RerankingState(files.state / str(number), fingerprint(work, *facts))
            if self._scores != "share":
                state.begin()
                self._stats.add(work)
                log.info(
                    "%d of %d pairs: %d tokens to compute, %.1f times fewer than all; %s, attention: %s",
                    *(len(chosen), len(pairs), work.tokens, work.all_tokens / max(1, work.tokens)),
                    *(self.device, backend(self.device, self.precision)),
                )
            yield Part(work, places, state)


class _Asked(NamedTuple):
    """The pairs of the run that is written, which of them are reranked, bool [P], and these pairs alone."""

    given: Pairs
    first: np.ndarray
    pairs: Pairs


def read_given(files: Files, settings: Reranking) -> Pairs:
    """The pairs of the run that is written."""
    return read_pairs(files.run, settings.depth if settings.remainder == "dropped" else None)


def open_reranking(
    files: Files, settings: Reranking, checkpoint: Path, device: torch.device, scores: Scores = "all"
) -> FileReranking:
    """A reranking with the checkpoint of a folder, whose digest names the model. Its planning begins."""
    pool = ThreadPoolExecutor(2)
    # Reading the checkpoint twice in parallel takes only as long as reading it from disk once.
    model, given = pool.submit(_digest, checkpoint), pool.submit(read_given, files, settings)
    pool.shutdown(wait=False)
    return FileReranking(files, settings, load_reranker(checkpoint), device, model.result(), given, scores)


def _digest(checkpoint: Path) -> str:
    return " ".join(sha256(checkpoint / file) for file in ("model.safetensors", "reranker.json", "config.json"))
