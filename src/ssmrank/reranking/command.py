"""`ssmrank rerank`: a TREC run from a TREC run, a checkpoint and a collection."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ssmrank.collections.store import TextStore, read_queries
from ssmrank.config import Reranking, read_settings
from ssmrank.io.atomic import atomic_file
from ssmrank.io.trec import read_run, write_run
from ssmrank.models.precision import default_device, resolve_precision
from ssmrank.models.reranker import load_reranker
from ssmrank.reranking.engine import rerank

OUT_OF_MEMORY = "# OOM"
"""The only line of a run whose model did not fit into memory in training."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("--settings", required=True, help="section of rerankings: inline JSON, or a file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that `ssmrank train` wrote")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries the run answers")
    parser.add_argument("--run", type=Path, required=True, help="first-stage run")
    parser.add_argument("--output", type=Path, required=True, help="run to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the reranked run."""
    settings = read_settings(Reranking, arguments.settings)
    outcome = arguments.checkpoint / "outcome.json"
    if outcome.is_file() and json.loads(outcome.read_text())["status"] == "oom":
        with atomic_file(arguments.output) as stream:
            stream.write(OUT_OF_MEMORY + "\n")
        return
    device = default_device()
    reranked = rerank(
        load_reranker(arguments.checkpoint),
        read_run(arguments.run),
        read_queries(arguments.collection / "splits" / arguments.split / "queries.jsonl"),
        TextStore(arguments.collection / "documents.jsonl"),
        settings.depth,
        settings.token_budget,
        resolve_precision(settings.precision, device),
        device,
    )
    write_run(arguments.output, reranked, f"{arguments.checkpoint.name}-{arguments.checkpoint.parent.name}")
