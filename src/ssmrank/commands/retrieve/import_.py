"""`ssmrank retrieve import`: imports a TREC run from elsewhere as a first stage."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.commands.retrieve import add_own_document
from ssmrank.config.reading import read_settings
from ssmrank.config.retrievers import FileRetriever
from ssmrank.retrieval.run_file import import_run, run_file_of
from ssmrank.tracking.run_metadata import RunMethod, described


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="retriever of kind run: inline JSON, or a file")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries the run answers")
    add_own_document(parser)
    parser.add_argument("--output", type=Path, required=True, help="TREC run to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the run in the same form as other first-stage runs."""
    settings = read_settings(FileRetriever, arguments.settings)
    collection, output = arguments.collection, arguments.output
    file = run_file_of(settings, collection, arguments.split)
    own = arguments.leave_out_own_document
    step = {"name": output.stem, "method": f"run from elsewhere ({settings.label})", "depth": settings.depth}
    with described(arguments, RunMethod(step, collection, arguments.split)):
        import_run(settings, file, collection, arguments.split, output, leave_out_own=own)
