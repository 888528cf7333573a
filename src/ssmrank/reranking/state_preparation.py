"""Computes the states of a collection's documents ahead, into a folder. Work that was killed goes on where it was."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from ssmrank.errors import UserError
from ssmrank.io.leftovers import sweep
from ssmrank.io.sizes import show_bytes
from ssmrank.io.texts import TextStore
from ssmrank.models.kept_states import StatePool
from ssmrank.models.token_budget import budget_batches
from ssmrank.reranking.document_prefixes import PairSplitter, Prefix
from ssmrank.reranking.scoring import Scorer
from ssmrank.reranking.state_folder import SHARD_BYTES, StateFolder
from ssmrank.reranking.state_passes import StatePasses, why_no_states

log = logging.getLogger(__name__)

_TEXTS = 2000
"""How many texts are tokenized at once."""

_SPARE = 2**26
"""Bytes of a disk that are left free."""


class Prepared(NamedTuple):
    """How many states were computed, and how many were there already."""

    computed: int
    found: int


class StatePreparation:
    """The states of a collection's documents for a model.

    query_tokens: the longest query, in tokens, for which states of cut documents are made. Queries up to some tokens
    shorter use the same. dtype: what states are stored in; None: as the model computes them. Raises UserError for a
    model without states.
    """

    def __init__(
        self,
        scorer: Scorer,
        folder: StateFolder,
        token_budget: int,
        query_tokens: int,
        dtype: torch.dtype | None = None,
        name: str = "model",
    ) -> None:
        why = why_no_states(scorer.reranker)
        if why:
            raise UserError(f"{name} has no states of documents: {why}; give a causal model, such as a Mamba")
        max_length = scorer.reranker.settings.max_length
        scorer.reranker.template.room(query_tokens, max_length, f"of {query_tokens} tokens (--query-tokens)")
        self._folder, self._token_budget, self._query_tokens = folder, token_budget, query_tokens
        self._splitter = PairSplitter(scorer.reranker.template, max_length)
        self._passes, self._dtype = StatePasses(scorer), dtype
        self._size = self._passes.pool(0, dtype).stored_bytes

    def run(self, texts: TextStore) -> Prepared:
        """Computes and writes missing states. Raises UserError if the disk has no room for them, before it begins."""
        sweep(self._folder.path, below=False)
        lengths = {prefix.key: len(prefix.tokens) for prefix in self._prefixes(texts)}
        left = {key: length for key, length in lengths.items() if key not in self._folder}
        self._check_room(len(lengths), list(left.values()))
        done, began = 0, time.perf_counter()
        for shard in self._shards(prefix for prefix in self._prefixes(texts) if prefix.key in left):
            self._folder.refresh()  # another process may have written some
            new = [prefix for prefix in shard if prefix.key not in self._folder]
            if new:
                self._write(new)
            done += len(shard)
            rate = done / (time.perf_counter() - began)
            minutes, seconds = divmod(int((len(left) - done) / rate), 60)
            log.info("%d/%d states  %.1f a second  %d:%02d left", done, len(left), rate, minutes, seconds)
        return Prepared(len(left), len(lengths) - len(left))

    def _prefixes(self, texts: TextStore) -> Iterator[Prefix]:
        """The documents' prefixes, in the order of the file."""
        ids = texts.ids()
        while chunk := list(islice(ids, _TEXTS)):
            for document in self._splitter.documents([texts[id] for id in chunk]):
                yield self._splitter.longest_prefix(document, self._query_tokens)

    def _check_room(self, count: int, left: list[int]) -> None:
        needed, folder = sum(map(self._size, left)), self._folder.path
        each = needed / len(left) if left else 0
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        log.info(
            "%d different documents, %d states to compute: %s each, %s in all; %s are free in %s",
            *(count, len(left), show_bytes(each), show_bytes(needed), show_bytes(free), folder),
        )
        if needed + _SPARE > free:
            raise UserError(
                f"{folder}: the states of {len(left)} documents take {show_bytes(needed)} ({show_bytes(each)} each), "
                f"but {show_bytes(free)} are free; free space, choose another folder, or store them in bf16"
            )

    def _shards(self, prefixes: Iterator[Prefix]) -> Iterator[list[Prefix]]:
        shard: dict[bytes, Prefix] = {}
        filled = 0
        for prefix in prefixes:
            if prefix.key in shard:
                continue
            shard[prefix.key] = prefix
            filled += self._size(len(prefix.tokens))
            if filled >= SHARD_BYTES:
                yield list(shard.values())
                shard, filled = {}, 0
        if shard:
            yield list(shard.values())

    def _write(self, prefixes: list[Prefix]) -> None:
        pool: StatePool = self._passes.pool(len(prefixes), self._dtype)
        slots = np.array([pool.take(len(prefix.tokens)) for prefix in prefixes])
        for batch in budget_batches([len(prefix.tokens) for prefix in prefixes], self._token_budget):
            self._passes.keep([prefixes[place] for place in batch.tolist()], pool, slots[batch].tolist())
        self._folder.write(prefixes, pool, slots.tolist())
