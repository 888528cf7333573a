"""`ssmrank negatives`: training groups as JSON lines."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ssmrank.collections.layout import names_of_split
from ssmrank.collections.store import TextStore
from ssmrank.config import Negatives, read_settings
from ssmrank.errors import UserError
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.trec import iterate_run, read_qrels
from ssmrank.negatives.sampling import NoGroup, Sample, explain, sample_negatives
from ssmrank.tracking import track

logger = logging.getLogger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("--settings", required=True, help="section of negatives: inline JSON, or a file")
    parser.add_argument("--run", dest="ranking", type=Path, required=True, help="first-stage TREC run of the split")
    parser.add_argument("--qrels", type=Path, required=True, help="relevance judgments of the split")
    parser.add_argument("--collection", type=Path, help="folder of the collection, for random negatives")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines to write")


def run(arguments: argparse.Namespace) -> None:
    """Writes the groups."""
    settings = read_settings(Negatives, arguments.settings)
    output = arguments.output
    tags = names_of_split(arguments.qrels) | {"seed": str(settings.seed)}
    with track("negatives", str(output), tags, settings.model_dump()) as tracked:
        collection: list[str] = []
        if settings.random:
            if arguments.collection is None:
                raise UserError("negatives: random ones need the option --collection, the collection's folder")
            collection = list(TextStore(arguments.collection / "documents.jsonl").ids())
        sample = write_negatives(
            settings, ranking=arguments.ranking, qrels=arguments.qrels, output=output, collection=collection
        )
        tracked.metrics(sample.counts())
        tracked.artifact_path("negatives_path", output)


def write_negatives(
    settings: Negatives, *, ranking: Path, qrels: Path, output: Path, collection: Sequence[str] = ()
) -> Sample:
    """Samples from a run's file and writes {"query", "positive", "negatives"} a line; returns the sample."""
    judgments, rankings = read_qrels(qrels), iterate_run(ranking)
    try:
        sample = sample_negatives(rankings, judgments, settings, collection)
    except NoGroup as error:
        raise UserError(f"{ranking}, {qrels}: {error}") from error
    if sample.deepest < settings.depth:
        logger.warning(
            "%s: at most %d documents for a query, so depth %d is not reached", ranking, sample.deepest, settings.depth
        )
    write_jsonl(output, (group._asdict() for group in sample.groups))
    logger.info("%s: %s", output, explain(sample, settings))
    return sample
