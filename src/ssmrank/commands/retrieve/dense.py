"""`ssmrank retrieve dense`: retrieves with a bi-encoder and writes a TREC run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ssmrank.commands.retrieve import add_own_document
from ssmrank.config.encoders import Encoder
from ssmrank.config.reading import read_settings
from ssmrank.config.retrievers import Dense, FlatIndex
from ssmrank.errors import UserError
from ssmrank.retrieval.dense import DenseFiles, retrieve_dense
from ssmrank.tracking.run_metadata import RunMethod, described


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="retriever of kind dense: inline JSON, or a file")
    parser.add_argument("--encoder", required=True, help="section of encoders: inline JSON, or a file")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder of the bi-encoder")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries are answered")
    parser.add_argument("--vectors", type=Path, help="folder of `ssmrank index vectors`; not needed for candidates")
    parser.add_argument("--index", type=Path, help="folder that `ssmrank index faiss` wrote, unless index is flat")
    parser.add_argument("--candidates", type=Path, help="run of the retriever that candidates names")
    add_own_document(parser)
    parser.add_argument("--threads", type=int, default=1, help="searching threads of an approximate index (default: 1)")
    parser.add_argument("--output", type=Path, required=True, help="TREC run to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the run."""
    settings = read_settings(Dense, arguments.settings)
    needed = "candidates" if settings.candidates is not None else "vectors"
    if getattr(arguments, needed) is None:
        raise UserError(f"the settings require the option --{needed}")
    if not isinstance(settings.index, FlatIndex) and arguments.index is None:
        raise UserError(f"an index of kind {settings.index.kind} requires the option --index")
    collection, output = arguments.collection, arguments.output
    with described(arguments, _method(arguments, settings)):
        retrieve_dense(
            settings,
            read_settings(Encoder, arguments.encoder),
            DenseFiles(
                *(arguments.model, collection, arguments.split),
                *(arguments.vectors, arguments.index, arguments.candidates),
            ),
            output,
            threads=arguments.threads,
            leave_out_own=arguments.leave_out_own_document,
        )


def _method(arguments: argparse.Namespace, settings: Dense) -> RunMethod:
    step = {"name": arguments.output.stem, "method": f"bi-encoder {arguments.model.name}", "depth": settings.depth}
    if arguments.candidates is None:
        return RunMethod(step, arguments.collection, arguments.split)
    return RunMethod(step, arguments.collection, arguments.split, [arguments.candidates], "reranks")
