"""First stages that are run files made elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ssmrank.config.retrievers import FileRetriever, RunFile
from ssmrank.errors import UserError
from ssmrank.io.checksum import verify_sha256
from ssmrank.io.collection import documents_file, queries_file
from ssmrank.io.texts import TextStore, UnknownId, read_queries
from ssmrank.io.trec import iterate_run, strictly_decreasing
from ssmrank.retrieval.first_stage import Ranking, Written, without_own, write_first_stage


def run_file_of(settings: FileRetriever, collection: Path, split: str) -> RunFile:
    """The run file that the settings name for a split. Raises UserError where they name none."""
    key = f"{collection.name}/{split}"
    if key not in settings.runs:
        raise UserError(f"retrievers: no run is given for {key}, only for {', '.join(settings.runs)}; add it to runs")
    return settings.runs[key]


def import_run(
    settings: FileRetriever, file: RunFile, collection: Path, split: str, output: Path, leave_out_own: bool = False
) -> Written:
    """Checks the file's digest, queries and documents, and writes the run in the project's own form.

    With `leave_out_own`, a document that has the query's id is no hit.
    """
    path = Path(file.path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; correct the path under retrievers")
    verify_sha256(path, file.sha256)
    queries = read_queries(queries_file(collection, split))
    # One more, since the query's own document may be among them and is removed.
    depth = settings.depth + leave_out_own
    texts = TextStore(documents_file(collection))
    rankings = _known(iterate_run(path, depth, ties=settings.ties), path, queries, texts)
    if leave_out_own:
        rankings = without_own(rankings, settings.depth)
    return write_first_stage(output, rankings, queries, settings.label, f"check that {path} is of this split")


def _known(
    rankings: Iterable[tuple[str, Ranking]], path: Path, queries: dict[str, str], documents: TextStore
) -> Iterator[tuple[str, Ranking]]:
    """The rankings of the split's queries, with scores made strictly decreasing so that the order is kept.

    Raises UserError for a document that the collection does not have.
    """
    for query, ranking in rankings:
        if query not in queries:
            continue
        for document, _ in ranking:
            if document not in documents:
                raise UnknownId(f"{path}: query {query} names document {document!r}, which {documents.path} has not")
        yield query, strictly_decreasing(ranking)
