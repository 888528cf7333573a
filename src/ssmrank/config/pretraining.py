"""Section pretraining: language models of several architectures, and the settings of `ssmrank pretrain`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ssmrank.config.models import check_architecture
from ssmrank.config.section import Name, Section, Seed


class Sweep(Section):
    """Short pretrainings that choose each model's learning rate."""

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
        return check_architecture(config)


class LanguageModelling(Section):
    """How language models are pretrained; it is the same for all models of a section."""

    corpus: Name
    vocabulary: int = Field(8192, ge=320, multiple_of=64, description="entries of the byte-level BPE tokenizer")
    vocabulary_texts: int = Field(
        100_000, ge=1, description="number of texts that the tokenizer is trained on, the first ones"
    )
    max_length: int = Field(512, ge=8, description="most tokens of a text; the rest is cut off")
    tokens: int = Field(ge=1, description="tokens to train on, rounded up to whole steps")
    step_tokens: int = Field(32768, ge=16, description="tokens of an optimizer step")
    token_budget: int = Field(32768, ge=16, description="tokens in one forward pass; a step is cut to fit")
    masked_share: float = Field(0.15, gt=0, lt=1, description="tokens that a masked language model predicts")
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's decay rates")
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    held_out_tokens: int = Field(500_000, ge=1, description="tokens of held-out text that the loss is measured on")
    held_out_measurements: int = Field(
        20, ge=1, description="number of measurements of the held-out loss, evenly spaced"
    )
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
        None, description="training whose checkpoints are published; null: those of the pretraining"
    )


class PretrainSettings(LanguageModelling):
    """The settings of `ssmrank pretrain run`: a section of pretraining for one model."""

    config: dict[str, Any]


class CardScores(Section):
    """A row of a model card's scores: one test, and the metrics files of the systems compared on it."""

    test: str
    metric: str
    files: dict[str, str] = Field(min_length=1, description="the metrics file of each system, by its name")


class CardSettings(Section):
    """The settings of `ssmrank pretrain publish`: what a model card says in addition to what the trainings wrote."""

    label: str
    corpus: str
    corpus_license: str
    training: str = Field("", description="the training as a reranker, in words")
    scores: list[CardScores] = Field([], description="of the published reranker; all rows have the same systems")
