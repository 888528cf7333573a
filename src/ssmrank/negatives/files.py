"""Samples negatives from a run file and writes training groups."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ssmrank.config.negatives import Negatives
from ssmrank.errors import UserError
from ssmrank.io.jsonl import write_jsonl
from ssmrank.io.run_reader import RunReader
from ssmrank.io.texts import TextStore
from ssmrank.io.trec import iterate_run, read_qrels
from ssmrank.negatives.sampling import Facts, NoGroup, Sample, explain, sample_negatives

logger = logging.getLogger(__name__)


def write_negatives(
    settings: Negatives,
    *,
    ranking: Path,
    qrels: Path,
    output: Path,
    documents: Path,
    rivals: Path | None = None,
) -> Sample:
    """Samples from the run file `ranking` and writes one {"query", "positive", "negatives"} a line; returns the sample.

    documents: the collection's texts. rivals: the run whose scores find false negatives.

    Raises UserError where no group is left, or `false_negatives` is set without `rivals`.
    """
    judgments, rankings = read_qrels(qrels), iterate_run(ranking)
    try:
        sample = sample_negatives(rankings, judgments, settings, _facts(settings, documents, rivals))
    except NoGroup as error:
        raise UserError(f"{ranking}, {qrels}: {error}") from error
    if sample.deepest < settings.depth:
        logger.warning(
            "%s: at most %d documents per query, so depth %d is not reached", ranking, sample.deepest, settings.depth
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
    """A function that gives the digest of a document's text, regardless of case and white space."""

    @cache
    def digest(document: str) -> bytes:
        words = " ".join(store[document].casefold().split())
        return hashlib.blake2b(words.encode("utf-8"), digest_size=16).digest()

    return digest
