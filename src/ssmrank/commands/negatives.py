"""`ssmrank negatives`: samples training groups and writes them as JSON lines."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.config.negatives import Negatives
from ssmrank.config.reading import read_settings
from ssmrank.io.collection import documents_file
from ssmrank.negatives.files import write_negatives


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="section of negatives: inline JSON, or a file")
    parser.add_argument("--run", dest="ranking", type=Path, required=True, help="first-stage TREC run of the split")
    parser.add_argument("--qrels", type=Path, required=True, help="relevance judgments of the split")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--rivals", type=Path, help="run of the retriever that false_negatives names, of the split")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the groups."""
    settings = read_settings(Negatives, arguments.settings)
    write_negatives(
        settings,
        ranking=arguments.ranking,
        qrels=arguments.qrels,
        output=arguments.output,
        documents=documents_file(arguments.collection),
        rivals=arguments.rivals,
    )
