"""Opens the source of a collection from its settings."""

from __future__ import annotations

from pathlib import Path

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
from ssmrank.errors import UserError


def open_source(
    settings: Collection, archives: str | Path, corpus: Corpus | None = None, texts: Path | None = None
) -> Source:
    """The source that the settings name. An archive that is missing is downloaded into `archives` now.

    corpus: the corpus that the source names. texts: the folder of the collection that it names. Raises UserError if the
    source names one that is not given.
    """
    source = settings.source
    if isinstance(source, FolderCollection):
        return FolderSource(source, settings.text_fields, settings.query_fields)
    if isinstance(source, IrDatasetsCollection):
        return IrDatasetsSource(source, settings.text_fields, settings.query_fields)
    if isinstance(source, TitlesCollection):
        return TitlesSource(source, _required(corpus))
    if isinstance(source, CorpusQueries):
        if source.corpus is not None:
            return CorpusQueriesSource(source, CorpusPart(_required(corpus), source.part))
        if texts is None:
            raise UserError("texts of a collection need the option --texts: the folder of the one that source names")
        return CorpusQueriesSource(source, CollectionTexts(texts))
    return SemanlinkSource(source, settings.text_fields, archives)


def _required(corpus: Corpus | None) -> Corpus:
    if corpus is None:
        raise UserError("texts of a corpus need the option --corpus: the section of corpora that source names")
    return corpus
