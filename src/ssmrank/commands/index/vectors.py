"""`ssmrank index vectors`: encodes a collection's documents as vectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.encoders import Encoder
from ssmrank.config.reading import read_settings
from ssmrank.io.collection import documents_file
from ssmrank.retrieval.encoder import BiEncoder, fingerprint
from ssmrank.retrieval.vectors import encode_collection


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="section of encoders: inline JSON, or a file")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder of the bi-encoder")
    parser.add_argument("--collection", type=Path, required=True, help="folder with documents.jsonl")
    parser.add_argument("--state", type=Path, required=True, help="folder that keeps finished shards of a killed run")
    parser.add_argument("--output", type=Path, required=True, help="folder of vectors to write")


def run(arguments: argparse.Namespace) -> None:
    """Encodes the documents."""
    settings = read_settings(Encoder, arguments.settings)
    documents = documents_file(arguments.collection)
    encoder = BiEncoder(arguments.model, settings)
    encode_collection(
        *(encoder, documents, arguments.output, arguments.state),
        *(settings.shard_documents, fingerprint(encoder, arguments.model, documents), settings.vectors),
    )
