"""Measures pairs per second with and without document reuse."""

from __future__ import annotations

import logging
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ssmrank.config.rerankings import Reranking
from ssmrank.io.atomic import scratch_directory
from ssmrank.io.collection import documents_file, queries_file
from ssmrank.io.pairs import pairs_of
from ssmrank.io.texts import read_queries
from ssmrank.io.trec import Run, read_run
from ssmrank.models.precision import default_device, device_name, resolve_precision
from ssmrank.models.reranker import load_reranker
from ssmrank.models.tokens import token_store
from ssmrank.reranking.engine import plan_work, score

log = logging.getLogger(__name__)

REPEATS = 3
"""How often each way is measured, taking turns, after a first time that is not counted. The median is taken."""


def measure(
    settings: Reranking, checkpoint: Path, collection: Path, split: str, run: Path, count: int | None = None
) -> dict[str, Any]:
    """Pairs, tokens and seconds with and without document reuse; `reuse` is None if the model cannot reuse documents.

    count: about how many pairs are taken, from the run's first queries; None: all.
    """
    device = default_device()
    precision = resolve_precision(settings.precision, device)
    reranker = load_reranker(checkpoint)
    first_stage = _first(read_run(run), settings.depth, count)
    queries = read_queries(queries_file(collection, split))
    pairs = pairs_of(first_stage, settings.depth)
    with scratch_directory() as cache:
        documents = token_store(
            documents_file(collection),
            reranker.template,
            cache,
            pairs.documents,
            reranker.settings.max_length,
        )
        ways = {"reuse": True, "whole": False} if reranker.can_share_prefixes else {"whole": False}
        works = {
            name: plan_work(
                *(reranker, pairs, queries, documents, settings.token_budget),
                share=share,
                long_queries=settings.long_queries,
                deterministic=settings.deterministic,
            )
            for name, share in ways.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(1 + REPEATS):
            for name, work in works.items():
                began = time.perf_counter()
                score(reranker, work, precision, device, deterministic=settings.deterministic)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[name].append(time.perf_counter() - began)
    result: dict[str, Any] = {"reuse": None}
    for name, work in works.items():
        median = statistics.median(seconds[name][1:])
        result[name] = {
            "seconds": round(median, 4),
            "pairs_per_second": round(len(pairs) / median, 1),
            "tokens": work.tokens,
        }
        log.info("%s: %s pairs/s", name, f"{result[name]['pairs_per_second']:,.1f}")
    result |= {
        "pairs": len(pairs),
        "collection": collection.name,
        "device": device_name(device),
        "precision": precision,
    }
    return result


def _first(first_stage: Run, depth: int, pairs: int | None) -> Run:
    """The run's first queries, which have about `pairs` pairs; None: all queries."""
    return first_stage if pairs is None else dict(islice(first_stage.items(), max(1, pairs // depth)))
