"""`ssmrank retrieve import`: a TREC run from elsewhere as first stage."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssmrank.config.reading import read_settings
from ssmrank.config.retrievers import FileRetriever
from ssmrank.errors import UserError
from ssmrank.io.checksum import verify_sha256
from ssmrank.io.texts import TextStore, UnknownId, read_queries
from ssmrank.io.trec import iterate_run, strictly_decreasing
from ssmrank.retrieval.first_stage import Ranking, add_own_document, without_own, write_first_stage
from ssmrank.tracking import track


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's options."""
    parser.add_argument("--settings", required=True, help="retriever of kind run: inline JSON, or a file")
    parser.add_argument("--collection", type=Path, required=True, help="folder of the collection")
    parser.add_argument("--split", required=True, help="split whose queries the run answers")
    add_own_document(parser)
    parser.add_argument("--output", type=Path, required=True, help="TREC run to write")


def run(arguments: argparse.Namespace) -> None:
    """Checks the file's digest, its queries and documents, and writes the run in the form of all others."""
    settings = read_settings(FileRetriever, arguments.settings)
    collection, output = arguments.collection, arguments.output
    key = f"{collection.name}/{arguments.split}"
    if key not in settings.runs:
        raise UserError(f"retrievers: no run is given for {key}, only for {', '.join(settings.runs)}; add it to runs")
    file = settings.runs[key]
    tags = {"collection": collection.name, "split": arguments.split}
    with track("retrieve", str(output), tags, settings.model_dump()) as tracked:
        path = Path(file.path)
        if not path.is_file():
            raise UserError(f"{path}: no such file; correct the path under retrievers")
        verify_sha256(path, file.sha256)
        queries = read_queries(collection / "splits" / arguments.split / "queries.jsonl")
        # One more, since a query's own document may be among them.
        depth = settings.depth + arguments.leave_out_own_document
        texts = TextStore(collection / "documents.jsonl")
        rankings = _known(iterate_run(path, depth, ties=settings.ties), path, queries, texts)
        if arguments.leave_out_own_document:
            rankings = without_own(rankings, settings.depth)
        written = write_first_stage(output, rankings, queries, settings.label, f"check that {path} is of this split")
        tracked.metrics({"queries_with_hits": written.queries, "hits": written.hits})
        tracked.artifact_path("run_path", output)


def _known(
    rankings: Iterable[tuple[str, Ranking]], path: Path, queries: dict[str, str], documents: TextStore
) -> Iterator[tuple[str, Ranking]]:
    """The rankings of the split's queries, with scores that keep their order.

    Raises UserError for a document that the collection does not have.
    """
    for query, ranking in rankings:
        if query not in queries:
            continue
        for document, _ in ranking:
            if document not in documents:
                raise UnknownId(f"{path}: query {query} names document {document!r}, which {documents.path} has not")
        yield query, strictly_decreasing(ranking)
