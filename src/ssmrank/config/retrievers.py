"""Section retrievers: first stages."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ssmrank.config.encoders import Encoding
from ssmrank.config.fusions import FusionMethod
from ssmrank.config.section import Name, Section, Seed, Sha256


class Bm25Parameters(Section):
    """BM25's two parameters."""

    k1: float = Field(0.9, gt=0)
    b: float = Field(0.4, ge=0, le=1)


class Bm25(Bm25Parameters):
    """Lucene's BM25."""

    kind: Literal["bm25"]
    of_collections: dict[Name, Bm25Parameters] = Field({}, description="parameters that differ for some collections")
    stemmer: Literal["porter", "krovetz", "none"] = "porter"
    depth: int = Field(1000, ge=1, description="documents kept for each query")
    label: str = "BM25"


class FlatIndex(Section):
    """Exact search: every vector is compared, in the precision of the encoder's key `vectors`."""

    kind: Literal["flat"]


class IvfPqIndex(Section):
    """FAISS's inverted lists with product quantization: approximate and small."""

    kind: Literal["ivfpq"]
    lists: int = Field(4096, ge=1)
    probes: int = Field(64, ge=1, description="lists that are searched for a query")
    bytes: int = Field(64, ge=1, description="bytes of a vector's code; must divide the vectors' width")
    train_vectors: int = Field(200_000, ge=256, description="vectors that the quantizers are trained on")
    seed: Seed = 42


class HnswIndex(Section):
    """FAISS's navigable small world graph: approximate and fast, but larger than the vectors."""

    kind: Literal["hnsw"]
    links: int = Field(32, ge=2, description="links of each vector")
    build_breadth: int = Field(200, ge=1)
    search_breadth: int = Field(256, ge=1, description="candidates that a search keeps; choose at least depth")


VectorIndex = Annotated[FlatIndex | IvfPqIndex | HnswIndex, Field(discriminator="kind")]


class Candidates(Section):
    """The first documents of another retriever's run."""

    retriever: Name
    depth: int = Field(ge=1)


class TrainedEncoder(Encoding):
    """The bi-encoder that a training makes of a model, with the training's key `seed`, and how it encodes texts."""

    training: Name = Field(description="a training with bi_encoder")
    model: Name


class Dense(Section):
    """Nearest neighbours of a query's vector by inner product."""

    kind: Literal["dense"]
    encoder: Name | None = Field(None, description="a name of section encoders; or give trained")
    trained: TrainedEncoder | None = Field(None, description="a bi-encoder that is trained here; or give encoder")
    width: int | None = Field(
        None, ge=1, description="trained: width of the vectors, such as one of bi_encoder.widths; null: the model's"
    )
    index: VectorIndex = FlatIndex(kind="flat")
    candidates: Candidates | None = Field(None, description="only these documents are scored; null: all")
    depth: int = Field(1000, ge=1, description="documents kept for each query")
    label: str

    @model_validator(mode="after")
    def _has_one_encoder(self) -> Self:
        if (self.encoder is None) == (self.trained is None):
            raise ValueError("name either an encoder or a trained one {training, model}")
        if self.width is not None and self.trained is None:
            raise ValueError("width: give it in section encoders, or leave it out")
        return self

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
    """Runs from files, such as published ones."""

    kind: Literal["run"]
    runs: dict[Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")], RunFile] = Field(
        min_length=1, description="file of each COLLECTION/SPLIT"
    )
    ties: Literal["trec_eval", "file"] = Field(
        "trec_eval",
        description="order of documents with equal scores: trec_eval's (by id, descending), or that of the lines in "
        "the file, as in published numbers of RepLLaMA",
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
