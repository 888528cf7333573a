"""`ssmrank retrieve bm25`: retrieves with BM25 and writes a TREC run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.commands.retrieve import add_own_document
from ssmrank.config.reading import read_settings
from ssmrank.config.retrievers import Bm25
from ssmrank.io.collection import collection_of
from ssmrank.retrieval.retrieve import retrieve
from ssmrank.tracking.run_metadata import RunMethod, described


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="section of retrievers: inline JSON, or a file")
    parser.add_argument("--index", type=Path, required=True, help="folder written by `ssmrank index lucene`")
    parser.add_argument("--queries", type=Path, required=True, help="queries.jsonl of a split")
    add_own_document(parser)
    parser.add_argument("--threads", type=int, default=1, help="searching threads (default: 1)")
    parser.add_argument("--output", type=Path, required=True, help="TREC run to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the run."""
    settings = read_settings(Bm25, arguments.settings)
    with described(arguments, _method(arguments, settings)):
        retrieve(
            settings,
            arguments.index,
            arguments.queries,
            arguments.output,
            threads=arguments.threads,
            leave_out_own=arguments.leave_out_own_document,
        )


def _method(arguments: argparse.Namespace, settings: Bm25) -> RunMethod:
    name = {"name": arguments.output.stem, "method": "org.apache.lucene.search.similarities.BM25Similarity"}
    step = name | settings.model_dump(include={"k1", "b", "depth"})
    indexing = {"stemmer": settings.stemmer}
    collection, split = collection_of(arguments.queries)
    return RunMethod(step, collection, split, indexing=indexing, toolkit="pyserini")
