"""`ssmrank measure tokens`: counts the tokens of a reranking, and those that remain with reuse."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ssmrank.config.reading import read_settings
from ssmrank.config.rerankings import Reranking
from ssmrank.io.atomic import atomic_file
from ssmrank.models.reranker import ran_out_of_memory
from ssmrank.models.tokens import limit_tokenizer_threads
from ssmrank.reranking.token_counts import count_tokens


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="section of rerankings: inline JSON, or a file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that `ssmrank train` wrote")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries the run answers")
    parser.add_argument("--run", type=Path, required=True, help="first-stage run")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the counts. For a model that did not fit into memory in training it writes only {"status": "oom"}."""
    limit_tokenizer_threads()
    settings = read_settings(Reranking, arguments.settings)
    result: dict[str, object] = {"status": "oom"}
    if not ran_out_of_memory(arguments.checkpoint):
        result = count_tokens(settings, arguments.checkpoint, arguments.collection, arguments.split, arguments.run)
    with atomic_file(arguments.output) as stream:
        stream.write(json.dumps(result, indent=2) + "\n")
