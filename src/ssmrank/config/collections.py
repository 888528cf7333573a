"""Section collections: documents with queries and judgments, and where they come from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ssmrank.config.archives import PackageArchive
from ssmrank.config.section import Name, Section, Seed, Sha256, suggest


class SemanlinkSource(PackageArchive):
    """Semanlink's bookmarks and tags (`docs.json`, `tags.json`) inside a package archive."""

    adapter: Literal["semanlink"]
    folder: str = Field(description="folder of docs.json and tags.json inside the archive")
    min_words: int = Field(3, ge=1, description="documents with fewer words are left out")
    min_relevant: int = Field(3, ge=1, description="tags with fewer relevant documents are no queries")
    max_relevant: int = Field(200, ge=1, description="tags with more relevant documents are no queries")
    train_share: float = Field(0.7, gt=0, lt=1, description="share of the tags, by a hash, in the train split")


class FolderCollection(Section):
    """A folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv."""

    kind: Literal["folder"]
    path: str
    sha256: dict[str, Sha256] = Field({}, description="expected digest of files, by their path in the folder")


class IrDatasetsCollection(Section):
    """Documents of one ir_datasets id, queries and judgments of another for each split."""

    kind: Literal["ir_datasets"]
    documents: str = Field(description="ir_datasets id whose documents are taken")
    splits: dict[Name, str] = Field(description="for each split the ir_datasets id of its queries and qrels")


class TitlesCollection(Section):
    """Titles of a corpus as queries, each with its own text as the one relevant document (without the title)."""

    kind: Literal["titles"]
    corpus: Name = Field(description="a name of section corpora")
    part: Literal["train", "held-out"] = Field(description="of the corpus: documents and queries come from it alone")
    queries: int | None = Field(None, ge=1, description="use this many titles (drawn by a hash), not all")


class CorpusQueries(Section):
    """Texts with queries drawn from themselves; the one relevant document of a query is its own text."""

    kind: Literal["corpus-queries"]
    corpus: Name | None = Field(None, description="a name of section corpora")
    part: Literal["train", "held-out"] = Field("train", description="of the corpus")
    collection: Name | None = Field(None, description="instead of corpus: a collection; its documents are the texts")
    share: float = Field(1.0, gt=0, le=1, description="share of the texts, drawn by a hash, that is used")
    queries_per_text: float = Field(1.0, gt=0, description="2.5: two of each text and a third of every other one")
    titles: float = Field(0.35, ge=0, description="share of queries that are titles; texts without one give sentences")
    sentences: float = Field(0.2, ge=0, description="share of queries that are a sentence")
    words: float = Field(
        0.45, ge=0, description="share of queries that are a run of words which no stop word begins or ends"
    )
    max_words: int = Field(5, ge=1, description="words of such a run, at most")
    titled: float = Field(0.5, ge=0, le=1, description="share of the documents that begin with their title")
    seed: Seed = 42

    @model_validator(mode="after")
    def _texts_and_queries_are_some(self) -> Self:
        if (self.corpus is None) == (self.collection is None):
            raise ValueError("name either corpus or collection, where the texts come from")
        if self.titles + self.sentences + self.words == 0:
            raise ValueError("titles, sentences and words are all 0; raise one of these shares")
        return self


CollectionSource = Annotated[
    SemanlinkSource | FolderCollection | IrDatasetsCollection | TitlesCollection | CorpusQueries,
    Field(discriminator="kind"),
]


class ExpectedSplit(Section):
    """What evaluation has to be given of a split; what is not given is not checked."""

    queries: int | None = Field(None, ge=1, description="queries with a judgment")
    judgments: int | None = Field(None, ge=1, description="their judgments; a repeated one counts with each line")


class Expected(Section):
    """What a collection has to hold as it comes from its source: another number is an error, not a bad score."""

    documents: int | None = Field(None, ge=1)
    splits: dict[Name, ExpectedSplit] = {}


class Collection(Section):
    """Documents, and splits of queries with relevance judgments."""

    title: str
    source: CollectionSource
    splits: list[Name] = Field(min_length=1)
    text_fields: list[str] = Field(["title", "text"], description="document fields, joined by a space")
    query_fields: list[str] = Field(["text"], description="query fields, joined by a space")
    queries_are_documents: bool = Field(
        False, description="a query's own document, which has its id, is left out of first-stage runs (ArguAna)"
    )
    expected: Expected = Expected()
    license: str = ""

    @model_validator(mode="after")
    def _texts_of_a_corpus_have_one_split(self) -> Self:
        if isinstance(self.source, TitlesCollection | CorpusQueries) and len(self.splits) != 1:
            raise ValueError(
                f"a collection of kind {self.source.kind} has one split, with all its queries; keep one name in splits"
            )
        return self

    @model_validator(mode="after")
    def _expected_splits_are_splits(self) -> Self:
        for split in self.expected.splits:
            if split not in self.splits:
                raise ValueError(f"expected.splits: {split!r} is not among splits{suggest(split, self.splits)}")
        return self
