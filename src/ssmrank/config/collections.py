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
    min_relevant: int = Field(3, ge=1, description="tags with fewer relevant documents are not used as queries")
    max_relevant: int = Field(200, ge=1, description="tags with more relevant documents are not used as queries")
    train_share: float = Field(
        0.7, gt=0, lt=1, description="share of the tags that are in the train split; a hash decides"
    )


class FolderCollection(Section):
    """A folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv."""

    kind: Literal["folder"]
    path: str
    sha256: dict[str, Sha256] = Field({}, description="expected SHA-256 of each file, by its path in the folder")


class IrDatasetsCollection(Section):
    """A collection of ir_datasets: documents of one id; queries and judgments of one id per split."""

    kind: Literal["ir_datasets"]
    documents: str = Field(description="ir_datasets id whose documents are taken")
    splits: dict[Name, str] = Field(description="for each split the ir_datasets id of its queries and qrels")


class TitlesCollection(Section):
    """Titles of a corpus as queries; the text without its title is the only relevant document."""

    kind: Literal["titles"]
    corpus: Name = Field(description="a name of section corpora")
    part: Literal["train", "held-out"] = Field(
        description="the part of the corpus that documents and queries are made from"
    )
    queries: int | None = Field(None, ge=1, description="use only this many titles, drawn by a hash; null: all")


class CorpusQueries(Section):
    """Queries made from texts; a query's only relevant document is the text that it was made from."""

    kind: Literal["corpus-queries"]
    corpus: Name | None = Field(None, description="a name of section corpora")
    part: Literal["train", "held-out"] = Field("train", description="of the corpus")
    collection: Name | None = Field(None, description="a collection whose documents are the texts, instead of a corpus")
    share: float = Field(1.0, gt=0, le=1, description="share of the texts that is used; a hash decides")
    queries_per_text: float = Field(
        1.0, gt=0, description="number of queries per text; 2.5: two from each text, and a third from every second one"
    )
    titles: float = Field(
        0.35, ge=0, description="share of queries that are titles; a text without a title gives a sentence"
    )
    sentences: float = Field(0.2, ge=0, description="share of queries that are sentences of the text")
    words: float = Field(
        0.45, ge=0, description="share of queries that are consecutive words; they do not begin or end with a stop word"
    )
    max_words: int = Field(5, ge=1, description="most words in such a query")
    titled: float = Field(0.5, ge=0, le=1, description="share of the documents that begin with their title")
    seed: Seed = 42

    @model_validator(mode="after")
    def _texts_and_queries_are_some(self) -> Self:
        if (self.corpus is None) == (self.collection is None):
            raise ValueError("name either a corpus or a collection that the texts come from")
        if self.titles + self.sentences + self.words == 0:
            raise ValueError("titles, sentences and words are all 0; raise one of these shares")
        return self


CollectionSource = Annotated[
    SemanlinkSource | FolderCollection | IrDatasetsCollection | TitlesCollection | CorpusQueries,
    Field(discriminator="kind"),
]


class ExpectedSplit(Section):
    """Expected counts of a split's queries and judgments; counts that are not given are not checked."""

    queries: int | None = Field(None, ge=1, description="queries with a judgment")
    judgments: int | None = Field(None, ge=1, description="their judgments; a repeated one counts with each line")


class Expected(Section):
    """Expected counts of a collection; a different count is an error, because it would silently change scores."""

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
