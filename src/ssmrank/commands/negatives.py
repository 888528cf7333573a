"""`ssmrank negatives`: training groups as JSON lines."""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ssmrank.collections.layout import names_of_split
from ssmrank.config.negatives import Negatives
from ssmrank.config.reading import read_settings
from ssmrank.errors import UserError
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.run_reader import RunReader
from ssmrank.io.texts import TextStore
from ssmrank.io.trec import iterate_run, read_qrels
from ssmrank.negatives.sampling import Facts, NoGroup, Sample, explain, sample_negatives
from ssmrank.tracking import track

logger = logging.getLogger(__name__)


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
    output = arguments.output
    tags = names_of_split(arguments.qrels) | {"seed": str(settings.seed)}
    with track("negatives", str(output), tags, settings.model_dump()) as tracked:
        sample = write_negatives(
            settings,
            ranking=arguments.ranking,
            qrels=arguments.qrels,
            output=output,
            documents=arguments.collection / "documents.jsonl",
            rivals=arguments.rivals,
        )
        tracked.metrics(sample.counts())
        tracked.artifact_path("negatives_path", output)


def write_negatives(
    settings: Negatives,
    *,
    ranking: Path,
    qrels: Path,
    output: Path,
    documents: Path,
    rivals: Path | None = None,
) -> Sample:
    """Samples from a run's file and writes {"query", "positive", "negatives"} a line; returns the sample.

    documents: the collection's texts; rivals: the run that tells false negatives.
    """
    judgments, rankings = read_qrels(qrels), iterate_run(ranking)
    try:
        sample = sample_negatives(rankings, judgments, settings, _facts(settings, documents, rivals))
    except NoGroup as error:
        raise UserError(f"{ranking}, {qrels}: {error}") from error
    if sample.deepest < settings.depth:
        logger.warning(
            "%s: at most %d documents for a query, so depth %d is not reached", ranking, sample.deepest, settings.depth
        )
    write_jsonl(output, (group._asdict() for group in sample.groups))
    logger.info("%s: %s", output, explain(sample, settings))
    return sample


def _facts(settings: Negatives, documents: Path, rivals: Path | None) -> Facts:
    store = TextStore(documents)
    facts = Facts(texts=store)
    if settings.random or settings.distinct_texts:
        facts = facts._replace(collection=list(store.ids()) if settings.random else (), same_text=_text_digests(store))
    if settings.false_negatives is not None:
        if rivals is None:
            raise UserError("negatives: false_negatives needs the option --rivals, the run of its retriever")
        scores = RunReader(rivals)
        facts = facts._replace(rival_scores=lambda query: dict(scores.take(query)))
    return facts


def _text_digests(store: TextStore) -> Callable[[str], bytes]:
    """A digest of each document's text, with case and white space alike."""

    @cache
    def digest(document: str) -> bytes:
        words = " ".join(store[document].casefold().split())
        return hashlib.blake2b(words.encode("utf-8"), digest_size=16).digest()

    return digest
