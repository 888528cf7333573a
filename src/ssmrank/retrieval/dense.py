"""First-stage retrieval by a bi-encoder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ssmrank.config.encoders import Encoder
from ssmrank.config.retrievers import Dense, FlatIndex
from ssmrank.errors import UserError
from ssmrank.io.collection import documents_file, queries_file
from ssmrank.io.texts import TextStore, read_queries
from ssmrank.io.trec import iterate_run, sort_ranking
from ssmrank.retrieval.encoder import BiEncoder
from ssmrank.retrieval.first_stage import Ranking, Written, batched, without_own, write_first_stage
from ssmrank.retrieval.vector_index import check_index, search_exactly, search_index
from ssmrank.retrieval.vectors import Vectors

log = logging.getLogger(__name__)

_QUERIES_AT_ONCE = 8192


@dataclass(frozen=True)
class DenseFiles:
    """What a dense retrieval reads.

    model: folder of the bi-encoder.
    collection: folder of the collection.
    split: the split whose queries are searched.
    vectors: folder of the documents' vectors; not needed where the settings rescore candidates.
    index: folder of an approximate index of the vectors; None for exact search.
    candidates: run whose documents are scored, where the settings rescore candidates.
    """

    model: Path
    collection: Path
    split: str
    vectors: Path | None = None
    index: Path | None = None
    candidates: Path | None = None


def retrieve_dense(
    settings: Dense, encoder: Encoder, files: DenseFiles, output: Path, threads: int = 1, leave_out_own: bool = False
) -> Written:
    """Writes the run of a split's queries. With `leave_out_own`, a document that has the query's id is no hit."""
    queries = read_queries(queries_file(files.collection, files.split))
    model = BiEncoder(files.model, encoder)
    deeper = settings.model_copy(update={"depth": settings.depth + leave_out_own})
    if settings.candidates is not None:
        assert files.candidates is not None
        documents = TextStore(documents_file(files.collection))
        rankings = score_candidates(deeper, model, queries, documents, files.candidates)
    else:
        assert files.vectors is not None
        rankings = search_dense(deeper, model, queries, files.vectors, files.index, threads)
    if leave_out_own:
        rankings = without_own(rankings, settings.depth)
    return write_first_stage(output, rankings, queries, settings.label, "check the collection")


def search_dense(
    settings: Dense, encoder: BiEncoder, queries: Mapping[str, str], vectors: Path, index: Path | None, threads: int
) -> Iterator[tuple[str, Ranking]]:
    """The first `depth` documents of each query by inner product, best first.

    Memory holds the vectors of 8,192 queries, their best documents, and one shard of document vectors. An approximate
    `index` is in memory as a whole: 8.8 million vectors of width 1,024 take 36 GB with hnsw and about 0.6 GB with
    ivfpq.

    Raises UserError where vectors, index and model do not belong together.
    """
    stored = Vectors(vectors)
    width = stored.description.width
    if width != encoder.width:
        raise UserError(f"{vectors}: has vectors of width {width}, but the model's have {encoder.width}; encode again")
    if index is not None and not isinstance(settings.index, FlatIndex):
        check_index(index)
    done = 0
    for names in batched(queries, _QUERIES_AT_ONCE):
        encoded = encoder.queries([queries[name] for name in names])
        if isinstance(settings.index, FlatIndex) or index is None:
            scores, rows = search_exactly(encoded, stored, settings.depth, encoder.device)
        else:
            scores, rows = search_index(index, settings.index, encoded, settings.depth, threads)
            if rows.max(initial=-1) >= len(stored):
                raise UserError(f"{index}: was built from more vectors than {vectors} has; build it again")
        for name, own_scores, own_rows in zip(names, scores, rows, strict=True):
            found = own_rows >= 0
            documents = [id.decode() for id in stored.ids[own_rows[found]].tolist()]
            yield name, list(zip(documents, own_scores[found].tolist(), strict=True))
        done += len(names)
        log.info("%d of %d queries", done, len(queries))


def score_candidates(
    settings: Dense, encoder: BiEncoder, queries: Mapping[str, str], documents: TextStore, candidates: Path
) -> Iterator[tuple[str, Ranking]]:
    """Scores the first documents of a run by their inner product with the query, best first.

    Each document is encoded once, whatever the number of queries it is a candidate for. Queries of the run that are
    not in `queries` are left out. Raises UserError where none is left.
    """
    assert settings.candidates is not None
    run = {
        query: [document for document, _ in ranking]
        for query, ranking in iterate_run(candidates, settings.candidates.depth)
        if query in queries
    }
    rows = {document: row for row, document in enumerate(dict.fromkeys(d for ds in run.values() for d in ds))}
    if not rows:
        raise UserError(f"{candidates}: has no document for any of the queries; give a run of the same split")
    vectors = encoder.documents([documents[document] for document in rows])
    encoded = encoder.queries([queries[query] for query in run])
    for (query, own), vector in zip(run.items(), encoded, strict=True):
        scores = vectors[[rows[document] for document in own]] @ vector
        yield query, sort_ranking(zip(own, scores.tolist(), strict=True))[: settings.depth]
