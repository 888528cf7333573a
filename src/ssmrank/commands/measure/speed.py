"""`ssmrank measure speed`: pairs a second with document reuse and without, one beside the other."""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from itertools import islice
from pathlib import Path

import torch

from ssmrank.config.reading import read_settings
from ssmrank.config.rerankings import Reranking
from ssmrank.io.atomic import atomic_file, scratch_directory
from ssmrank.io.pairs import pairs_of
from ssmrank.io.texts import read_queries
from ssmrank.io.trec import Run, read_run
from ssmrank.models.precision import default_device, device_name, resolve_precision
from ssmrank.models.reranker import load_reranker, ran_out_of_memory
from ssmrank.models.tokens import token_store
from ssmrank.reranking.engine import plan_work, score
from ssmrank.tracking import track

log = logging.getLogger(__name__)

REPEATS = 3
"""Measurements of each, in turns after one that is not counted; their median is taken."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="section of rerankings: inline JSON, or a file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that `ssmrank train` wrote")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries the run answers")
    parser.add_argument("--run", type=Path, required=True, help="first-stage run")
    parser.add_argument("--pairs", type=int, help="of the run's first queries, about so many (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes pairs, tokens and seconds of both ways; `reuse` is null where the model cannot.

    Of a model that did not fit into memory in training, only that is written.
    """
    settings = read_settings(Reranking, arguments.settings)
    if ran_out_of_memory(arguments.checkpoint):
        with atomic_file(arguments.output) as stream:
            stream.write(json.dumps({"status": "oom"}) + "\n")
        return
    device = default_device()
    precision = resolve_precision(settings.precision, device)
    reranker = load_reranker(arguments.checkpoint)
    first_stage = _first(read_run(arguments.run), settings.depth, arguments.pairs)
    queries = read_queries(arguments.collection / "splits" / arguments.split / "queries.jsonl")
    pairs = pairs_of(first_stage, settings.depth)
    with scratch_directory() as cache:
        documents = token_store(
            arguments.collection / "documents.jsonl",
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
            )
            for name, share in ways.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(1 + REPEATS):
            for name, work in works.items():
                began = time.perf_counter()
                score(reranker, work, precision, device)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds[name].append(time.perf_counter() - began)
    result: dict = {"reuse": None}
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
        "collection": arguments.collection.name,
        "device": device_name(device),
        "precision": precision,
    }
    tags = {"collection": arguments.collection.name, "model": arguments.checkpoint.name}
    with track("rerank-speed", str(arguments.output), tags, {"reranking": settings.model_dump()}) as tracked:
        with atomic_file(arguments.output) as stream:
            stream.write(json.dumps(result, indent=2) + "\n")
        tracked.metrics({f"{name} pairs per second": result[name]["pairs_per_second"] for name in works})


def _first(first_stage: Run, depth: int, pairs: int | None) -> Run:
    """The first queries, as many as have about so many pairs."""
    return first_stage if pairs is None else dict(islice(first_stage.items(), max(1, pairs // depth)))
