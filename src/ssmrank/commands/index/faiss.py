"""`ssmrank index faiss`: builds an approximate index of vectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ssmrank.config.retrievers import FlatIndex, VectorIndex
from ssmrank.errors import UserError
from ssmrank.retrieval.vector_index import build_index
from ssmrank.retrieval.vectors import Vectors


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="index of a retriever of kind dense: inline JSON")
    parser.add_argument("--vectors", type=Path, required=True, help="folder that `ssmrank index vectors` wrote")
    parser.add_argument("--threads", type=int, default=1, help="indexing threads (default: 1)")
    parser.add_argument("--output", type=Path, required=True, help="index folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Builds the index."""
    try:
        settings: VectorIndex = TypeAdapter(VectorIndex).validate_json(arguments.settings)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"--settings: {reason}; give the section index of a dense retriever") from error
    if isinstance(settings, FlatIndex):
        raise UserError("--settings: kind flat compares every vector and has no index; nothing to build")
    build_index(settings, Vectors(arguments.vectors), arguments.output, arguments.threads)
