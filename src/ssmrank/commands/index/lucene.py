"""`ssmrank index lucene`: builds a Lucene index of a collection."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.retrieval.index import build_index


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--collection", type=Path, required=True, help="folder with documents.jsonl")
    parser.add_argument("--stemmer", choices=["porter", "krovetz", "none"], default="porter", help="default: porter")
    parser.add_argument("--threads", type=int, default=1, help="indexing threads (default: 1)")
    parser.add_argument("--output", type=Path, required=True, help="index folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Builds the index."""
    build_index(arguments.collection, arguments.output, stemmer=arguments.stemmer, threads=arguments.threads)
