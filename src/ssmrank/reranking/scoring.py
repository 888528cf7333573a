"""Runs planned batches on a device."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ssmrank.config.rerankings import Deterministic
from ssmrank.errors import UserError
from ssmrank.models.architectures import architecture_of
from ssmrank.models.batch_invariance import BatchInvariance, check_batch_invariance
from ssmrank.models.fast_products import fast_products
from ssmrank.models.float8 import to_float8
from ssmrank.models.packing import Packed, mapped, moved
from ssmrank.models.precision import Precision, autocast
from ssmrank.models.reranker import Reranker
from ssmrank.prefetch import prefetch
from ssmrank.reranking.batches import Batch, divided

log = logging.getLogger(__name__)

_PREFETCHED = 3
"""How many batches are packed in advance while the GPU works."""


class Scored(NamedTuple):
    """A batch's number, its pairs, int64, and their scores, float32."""

    number: int
    pairs: np.ndarray
    scores: np.ndarray


class _Ready(NamedTuple):
    number: int
    batch: Batch
    packed: Packed
    pairs: np.ndarray


class _Launched:
    """Scores that the device is computing and copying to the host."""

    def __init__(self, scores: torch.Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._scores = scores
        if scores.is_cuda:
            # The copy is queued right after this batch. The next batch is launched before the scores are read, and a
            # copy queued then would wait for it.
            self._scores = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
            self._scores.copy_(scores, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def fetched(self) -> np.ndarray:
        """Waits for the scores, float32."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._scores.numpy()


class Scorer:
    """Scores batches with a model on a device. The model is moved and its weights are converted in place.

    fused: whether a model that is not in float32 is prepared for its fastest kernels; without them it can be compared.
    deterministic: "batch": a pair's score does not depend on its batch, if batches are planned so too.
    began: when the first batch was launched, by `time.perf_counter`; infinity before.
    """

    def __init__(
        self,
        reranker: Reranker,
        precision: Precision,
        device: torch.device,
        fused: bool = True,
        deterministic: Deterministic | None = None,
    ) -> None:
        self.reranker, self.precision, self.device = reranker, precision, device
        self.began = math.inf
        self._limit: int | None = None
        products = fast_products(precision, device)
        self._products: Callable[[], AbstractContextManager[object]] = lambda: products
        architecture = architecture_of(reranker.backbone.config.model_type)
        if deterministic == "batch":
            check_batch_invariance(architecture, precision, device)
            self._products = BatchInvariance()
        reranker.to(device).eval()
        if fused and precision != "fp32":
            architecture.prepare(reranker.backbone)
        if precision == "fp8":
            to_float8(reranker.backbone, architecture)
        if precision != "fp32":
            _halve_matrices(reranker)

    def run(self, batches: Iterable[tuple[int, Batch]]) -> Iterator[Scored]:
        """Yields the scores of numbered batches, in order.

        If a batch does not fit into the device's memory, the limit falls to half its cost, and larger batches are
        divided from then on. Raises UserError if a single pair does not fit.
        """
        waiting: tuple[_Ready, _Launched] | None = None
        for ready in self._made_ready(batches):
            self.began = min(self.began, time.perf_counter())
            scores = None
            if self._limit is None or ready.batch.cost <= self._limit:
                scores = self._launch(ready.packed)
                if scores is None:
                    self._lower(ready.batch)
            if scores is None:
                if waiting is not None:
                    yield _fetched(*waiting)
                    waiting = None
                yield self._in_parts(ready)
                continue
            # The device already works on this batch while this thread waits for the scores of the last one.
            if waiting is not None:
                yield _fetched(*waiting)
            waiting = ready, scores
        if waiting is not None:
            yield _fetched(*waiting)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A context for forward passes of the model."""
        with torch.inference_mode(), autocast(self.precision, self.device), self._products():
            yield

    def _launch(self, packed: Packed) -> _Launched | None:
        """Launches a batch; None if memory does not suffice."""
        try:
            with self.computing():
                return _Launched(self.reranker.scores(moved(packed, self.device)))
        except torch.OutOfMemoryError:
            pass  # the error holds the failed pass's tensors until this clause ends
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _lower(self, batch: Batch) -> None:
        self._limit = max(1, batch.cost // 2)
        log.warning("memory of %s does not suffice: using batches of %d tokens from now on", self.device, self._limit)

    def _in_parts(self, ready: _Ready) -> Scored:
        pairs, scores = [], []
        left = [ready.batch]
        while left:
            batch = left.pop()
            assert self._limit is not None
            if batch.cost <= self._limit or batch.size == 1:
                packed, members = batch.pack()
                result = self._launch(packed)
                if result is not None:
                    pairs.append(members)
                    scores.append(result.fetched())
                    continue
                if batch.size == 1:
                    [pair] = members.tolist()
                    sequences = batch.sequences
                    document = sequences.documents[sequences.document[pair]]
                    raise UserError(
                        f"document {document}: its {sequences.lengths[pair]} tokens do not fit into the memory "
                        f"of {self.device}; use a device with more memory, or train with a smaller max_length"
                    )
                self._lower(batch)
            left.extend(divided(batch))
        return Scored(ready.number, np.concatenate(pairs), np.concatenate(scores))

    def _made_ready(self, batches: Iterable[tuple[int, Batch]]) -> Iterator[_Ready]:
        made = (_Ready(number, batch, *batch.pack()) for number, batch in batches)
        if self.device.type != "cuda":
            return made
        return prefetch((ready._replace(packed=mapped(ready.packed, _pinned)) for ready in made), _PREFETCHED)


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.pin_memory() if tensor.numel() else tensor


def _fetched(ready: _Ready, launched: _Launched) -> Scored:
    return Scored(ready.number, ready.pairs, launched.fetched())


def _halve_matrices(reranker: Reranker) -> None:
    """Converts linear layers to bf16 once, except the head. Norms and Mamba's own parameters stay float32."""
    head = set(reranker.head.modules())
    for module in reranker.modules():
        if isinstance(module, nn.Linear) and module not in head:
            module.to(torch.bfloat16)
