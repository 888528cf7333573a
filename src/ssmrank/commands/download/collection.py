"""`ssmrank download collection`: fetch a collection and write it in canonical form."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ssmrank.collections.canonical import write_collection
from ssmrank.collections.corpus_queries import CorpusQueriesSource
from ssmrank.collections.corpus_texts import CollectionTexts, CorpusPart
from ssmrank.collections.folder import FolderSource
from ssmrank.collections.irds import IrDatasetsSource
from ssmrank.collections.semanlink import SemanlinkSource
from ssmrank.collections.source import Source
from ssmrank.collections.titles import TitlesSource
from ssmrank.config.collections import (
    Collection,
    CorpusQueries,
    FolderCollection,
    IrDatasetsCollection,
    TitlesCollection,
)
from ssmrank.config.corpora import Corpus
from ssmrank.config.reading import read_settings
from ssmrank.errors import UserError
from ssmrank.tracking import track


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--settings", required=True, help="a collection of params.yaml: JSON, or a JSON or YAML file")
    parser.add_argument("--corpus", help="for texts of a corpus: its section of corpora, as --settings")
    parser.add_argument("--texts", type=Path, help="for texts of a collection: its folder")
    parser.add_argument("--archives", required=True, type=Path, help="folder in which downloaded archives are kept")
    parser.add_argument("--output", required=True, type=Path, help="folder to write the collection to")


def run(arguments: argparse.Namespace) -> None:
    """Fetches the collection and writes it."""
    settings = read_settings(Collection, arguments.settings)
    name = arguments.output.name
    with track("download-collection", name, {"collection": name}, settings.model_dump()) as tracked:
        source = open_source(settings, arguments.archives, arguments.corpus, arguments.texts)
        statistics = write_collection(source, settings.splits, arguments.output, settings.expected)
        tracked.metrics({key: statistics[key] for key in ("documents", "documents_empty")} | _counts(statistics))
        tracked.artifact_path("collection_path", arguments.output)


def _counts(statistics: dict[str, Any]) -> dict[str, int]:
    return {
        f"{split}/{key}": counts[key]
        for split, counts in statistics["splits"].items()
        for key in ("queries", "judgments", "relevant", "judgments_without_text")
    }


def open_source(
    settings: Collection, archives: str | Path, corpus: str | None = None, texts: Path | None = None
) -> Source:
    """The source that the settings name; an archive is fetched now, into `archives` if it is not there.

    `corpus`: the settings of the corpus that the source names; `texts`: the folder of the collection that it names.
    """
    source = settings.source
    if isinstance(source, FolderCollection):
        return FolderSource(source, settings.text_fields, settings.query_fields)
    if isinstance(source, IrDatasetsCollection):
        return IrDatasetsSource(source, settings.text_fields, settings.query_fields)
    if isinstance(source, TitlesCollection):
        return TitlesSource(source, _corpus(corpus))
    if isinstance(source, CorpusQueries):
        if source.corpus is not None:
            return CorpusQueriesSource(source, CorpusPart(_corpus(corpus), source.part))
        if texts is None:
            raise UserError("texts of a collection need the option --texts: the folder of the one that source names")
        return CorpusQueriesSource(source, CollectionTexts(texts))
    return SemanlinkSource(source, settings.text_fields, archives)


def _corpus(settings: str | None) -> Corpus:
    if settings is None:
        raise UserError("texts of a corpus need the option --corpus: the section of corpora that source names")
    return read_settings(Corpus, settings)
