"""Section models: backbones of rerankers, and where their checkpoints come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

import ssmrank
from ssmrank.config.archives import PackageArchive
from ssmrank.config.section import Name, Section
from ssmrank.errors import shown

_DASHED = frozenset({"modernbert_decoder"})
"""Modules of architectures with a dash in their name in transformers, which a module's name cannot have."""


def model_type_of(file: str) -> str:
    """transformers' name of the architecture in a file of `ssmrank.models.architectures`, named without `.py`."""
    return file.replace("_", "-") if file in _DASHED else file


_FOLDER = Path(ssmrank.__file__).with_name("models") / "architectures"

ARCHITECTURES = tuple(sorted(model_type_of(file.stem) for file in _FOLDER.glob("[!_]*.py")))
"""transformers' names of the architectures. They are the names of the files in `ssmrank.models.architectures`, because
importing that package takes seconds."""

ReadingOrder = Literal["query-first", "document-first", "query-document-query", "document-document-query"]
"""Orders of the input that params.yaml can name."""

SIDES: Mapping[ReadingOrder, str] = {
    "query-first": "qd",
    "document-first": "dq",
    "query-document-query": "qdq",
    "document-document-query": "ddq",
}
"""The sides of a sequence in their order: q for the query, d for the document."""

TWICE: ReadingOrder = "document-document-query"
ONLY_DECODERS = (
    "only decoders read a document twice, because an encoder sees all of it at once; take another order for E and ED"
)


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
    """Random weights of a given shape, with the tokenizer and optionally the word embeddings of another model."""

    kind: Literal["random"]
    config: dict[str, Any] = Field(description="transformers config: model_type and its fields")
    tokenizer: Name = Field(description="name of the model whose tokenizer is used")
    embeddings: Name | None = Field(None, description="name of the model whose word embeddings are copied")

    @field_validator("config")
    @classmethod
    def _architecture_is_known(cls, config: dict[str, Any]) -> dict[str, Any]:
        return check_architecture(config)


class PretrainedModel(Section):
    """A model that a section of `pretraining` makes."""

    kind: Literal["pretrained"]
    pretraining: Name
    model: Name = Field(description="a name of that section's models")


Checkpoint = Annotated[ModelArchive | ModelFolder | HubModel, Field(discriminator="kind")]


class CrossEncoderModel(Section):
    """A trained reranker of sentence-transformers or transformers, with its own input, pooling and head."""

    kind: Literal["cross-encoder"]
    checkpoint: Checkpoint = Field(description="where its folder is: hub, folder or package")
    max_length: int | None = Field(None, ge=8, description="tokens of a pair; null: what the checkpoint says")


def check_architecture(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the transformers config; raises ValueError if its architecture is unknown."""
    found = unsupported(config)
    if found:
        raise ValueError(found)
    return config


def unsupported(config: Mapping[str, Any]) -> str:
    """What is wrong with the architecture that a transformers config names; empty if nothing is."""
    model_type = config.get("model_type")
    if model_type is None or model_type in ARCHITECTURES:
        return ""
    return f"model_type {shown(model_type)} is not supported; known: {', '.join(ARCHITECTURES)}"


ModelSource = Annotated[
    ModelArchive | ModelFolder | HubModel | RandomModel | PretrainedModel | CrossEncoderModel,
    Field(discriminator="kind"),
]


class TrainingOverrides(Section):
    """What a model may set differently from its training section."""

    learning_rate: float | None = Field(None, gt=0)
    epochs: float | None = Field(None, gt=0)
    groups: int | None = Field(None, ge=1)
    batch_groups: int | None = Field(None, ge=1)
    token_budget: int | None = Field(None, ge=16)


class Model(Section):
    """A backbone of the reranker."""

    label: str = Field(description="how tables name it")
    kind: Literal["E", "ED", "D"] = Field(description="encoder, encoder-decoder or decoder")
    size: str = Field(description="parameters, such as 110M")
    pretraining: str = Field("", description="tokens of pretraining, such as 3.3B; empty for random weights")
    source: ModelSource
    tokenizer: Checkpoint | None = Field(None, description="source of the tokenizer, if `source` has none")
    template: ReadingOrder | None = Field(
        None, description="order of the input; null: the query first for E and ED, the document first for D"
    )
    pooling: Literal["first", "last", "mean"] | None = Field(
        None, description="token that is scored, or the mean of all; null: first for E and ED, last for D"
    )
    training: TrainingOverrides = TrainingOverrides()

    @model_validator(mode="after")
    def _cross_encoders_have_their_own(self) -> Model:
        if isinstance(self.source, CrossEncoderModel):
            for key in ("tokenizer", "template", "pooling"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: a cross-encoder has its own; leave it out")
        return self

    @model_validator(mode="after")
    def _decoders_read_twice(self) -> Model:
        if self.template == TWICE and self.kind != "D":
            raise ValueError(f"template: {ONLY_DECODERS}")
        return self

    @property
    def checkpoint(self) -> ModelSource:
        """Where the files of the checkpoint come from."""
        return self.source.checkpoint if isinstance(self.source, CrossEncoderModel) else self.source
