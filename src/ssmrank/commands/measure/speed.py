"""`ssmrank measure speed`: measures pairs per second with document reuse and without."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ssmrank.config.reading import read_settings
from ssmrank.config.rerankings import Reranking
from ssmrank.io.atomic import atomic_file
from ssmrank.models.reranker import ran_out_of_memory
from ssmrank.models.tokens import limit_tokenizer_threads
from ssmrank.reranking.speed import measure
from ssmrank.tracking import run_of, track


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="section of rerankings: inline JSON, or a file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that `ssmrank train` wrote")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries the run answers")
    parser.add_argument("--run", type=Path, required=True, help="first-stage run")
    parser.add_argument(
        "--pairs", type=int, help="measure about this many pairs, those of the run's first queries (default: all)"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes pairs, tokens and seconds with reuse and without; `reuse` is null if the model cannot reuse documents.

    For a model that did not fit into memory in training it writes only {"status": "oom"}.
    """
    limit_tokenizer_threads()
    settings = read_settings(Reranking, arguments.settings)
    checkpoint, collection = arguments.checkpoint, arguments.collection
    if ran_out_of_memory(checkpoint):
        with atomic_file(arguments.output) as stream:
            stream.write(json.dumps({"status": "oom"}) + "\n")
        return
    result = measure(settings, checkpoint, collection, arguments.split, arguments.run, arguments.pairs)
    with atomic_file(arguments.output) as stream:
        stream.write(json.dumps(result, indent=2) + "\n")
    if run_id := run_of(checkpoint / "mlflow_run_id"):
        ways = [name for name in ("reuse", "whole") if result[name] is not None]
        with track("measure", checkpoint.name, resume=run_id) as tracked:
            place = f"{collection.name}/{arguments.split}"
            tracked.metrics({f"{place}/pairs_per_second_{name}": result[name]["pairs_per_second"] for name in ways})
