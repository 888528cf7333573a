"""`ssmrank rerank`: a TREC run from a TREC run, a checkpoint and a collection."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ssmrank.collections.store import TextStore, read_queries
from ssmrank.config import Reranking, read_settings
from ssmrank.io.atomic import atomic_file
from ssmrank.io.trec import OUT_OF_MEMORY, read_run, write_run
from ssmrank.models.precision import default_device, resolve_precision
from ssmrank.models.reranker import load_reranker
from ssmrank.reranking.engine import rerank
from ssmrank.tracking import track


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
    collection = arguments.collection
    tags = {"collection": collection.name, "model": arguments.checkpoint.name}
    # The run of MLflow that trained the model goes on.
    trained_by = arguments.checkpoint / "mlflow_run_id"
    run_id = trained_by.read_text().strip() if trained_by.is_file() else None
    with track("rerank", str(arguments.output), tags, {"reranking": settings.model_dump()}, run_id) as tracked:
        first_stage, reranker = read_run(arguments.run), load_reranker(arguments.checkpoint)
        started = time.perf_counter()
        reranked = rerank(
            reranker,
            first_stage,
            read_queries(collection / "splits" / arguments.split / "queries.jsonl"),
            TextStore(collection / "documents.jsonl"),
            settings.depth,
            settings.token_budget,
            resolve_precision(settings.precision, device),
            device,
        )
        seconds = time.perf_counter() - started
        write_run(arguments.output, reranked, f"{arguments.checkpoint.name}-{arguments.checkpoint.parent.name}")
        pairs = sum(len(ranking) for ranking in reranked.values())
        speed = {"pairs": pairs, "pairs_per_second": pairs / seconds}
        tracked.metrics({f"{collection.name}/{arguments.split}/{name}": value for name, value in speed.items()})
