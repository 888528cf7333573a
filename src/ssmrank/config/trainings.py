"""Section trainings: how rerankers are trained."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ssmrank.config.metrics import METRICS_HELP, check_metric
from ssmrank.config.models import ReadingOrder
from ssmrank.config.rerankings import LongQueries
from ssmrank.config.section import Name, Section, Seed
from ssmrank.errors import shown

LOSS_NAMES = ("cross_entropy", "ranknet", "lambda_loss", "margin_mse", "kl_divergence")
"""Keys of `ssmrank.training.loss.LOSSES`."""

SEED_SIGN = "@seed"
"""Separates a training's name from a seed: `firstp@seed43` is firstp with seed 43. Names cannot contain an @."""

TRAINED_SIGN = "@trained"
"""After a retriever's name it names the bi-encoder that the retriever's key `trained` describes."""

NO_TRAINING = "none"
"""Used in place of a training's name if the model's checkpoint is a trained reranker that is used as it is."""


class Validation(Section):
    """Held-out queries that are reranked during training; the weights that rank them best are kept."""

    split: Name = Field(description="split of the training's collection")
    retriever: Name = Field(description="retriever whose run of that split is reranked")
    depth: int = Field(100, ge=1, description="documents of each query")
    queries: int | None = Field(None, ge=1, description="use only this many queries, drawn by the seed; null: all")
    metric: str = Field("MRR@10", description=METRICS_HELP)
    every_steps: int = Field(
        ge=1, description="optimizer steps between two validations; the last step is always validated"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after this many validations without improvement; null: never"
    )

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, metric: str) -> str:
        return check_metric(metric)


BI_ENCODER_LOSSES = ("cross_entropy", "kl_divergence")
"""The losses of bi-encoders."""


class BiEncoding(Section):
    """What makes a training one of a bi-encoder: queries and documents become vectors, and their products are scores.

    The loss `cross_entropy` is InfoNCE over the documents of the whole batch; `kl_divergence` adds to it the divergence
    from a teacher's scores of the group's documents.
    """

    pooling: Literal["first", "last", "mean"] | None = Field(
        None, description="null: the last token of decoders, the first of encoders; mean is for all"
    )
    normalize: bool = Field(True, description="vectors of length 1: the inner product is the cosine")
    temperature: float = Field(0.05, gt=0, description="scores are divided by it; without normalize usually 1")
    in_batch: bool = Field(
        True, description="documents of other groups are negatives too, except those that are relevant for the query"
    )
    contrastive_weight: float = Field(
        1.0, ge=0, description="kl_divergence: weight of InfoNCE, which is added; 0: only the teacher counts"
    )
    widths: list[int] = Field(
        [],
        description="Matryoshka: the loss is summed over these widths and the model's own, so that a vector may be cut "
        "to one of them",
    )
    query_length: int | None = Field(None, ge=8, description="tokens of a query; null: max_length")
    query_instruction: str = Field("", description="text before each query, including a blank at its end if needed")
    document_instruction: str = Field("", description="text before each document")

    @field_validator("widths")
    @classmethod
    def _widths_differ(cls, widths: list[int]) -> list[int]:
        if min(widths, default=1) < 1 or len(set(widths)) < len(widths):
            raise ValueError(f"widths {widths} must be at least 1 and different from one another")
        return widths


class Lora(Section):
    """Adapters: each linear layer gets two small matrices, and their product is added to its weight, which is frozen.

    Only they and the score head are trained (Hu et al. 2022). What is written is an ordinary checkpoint, with the
    products added to its weights, and the adapters alone in peft's format.
    """

    rank: int = Field(ge=1, description="rank of the product")
    alpha: float = Field(gt=0, description="the product is multiplied by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the adapter's input")
    modules: Literal["all"] | list[str] = Field(
        "all", description="names of linear layers, such as q_proj; all: all of the backbone"
    )

    @field_validator("modules")
    @classmethod
    def _modules_differ(cls, modules: str | list[str]) -> str | list[str]:
        if not modules or (len(set(modules)) < len(modules) and modules != "all"):
            raise ValueError(f"modules {modules}: give names of linear layers, each once, or all")
        return modules


class Training(Section):
    """How a reranker, or with `bi_encoder` a retriever, is trained."""

    collection: Name
    split: Name
    negatives: Name
    teacher: Name | None = Field(
        None, description="teacher whose scores a distillation loss learns; needed by such losses"
    )
    max_length: int = Field(
        ge=8, description="tokens of query, document and template together; of a bi-encoder: tokens of a document"
    )
    template: ReadingOrder | None = Field(
        None, description="order of the input, for all models that are trained so; null: the model's own"
    )
    long_queries: LongQueries = "cut"
    label: str = Field(description="how tables name the length, such as FirstP (512)")
    learning_rate: float = Field(gt=0)
    epochs: float = Field(1.0, gt=0, description="passes over the training groups")
    groups: int | None = Field(None, ge=1, description="use only this many groups, drawn by the seed; null: all")
    batch_groups: int = Field(ge=1, description="groups (a positive with its negatives) in an optimizer step")
    loss: str = Field("cross_entropy", description=f"one of {', '.join(LOSS_NAMES)}")
    token_budget: int = Field(16384, ge=16, description="tokens in one forward pass; a step is cut to fit")
    weight_decay: float = Field(0.01, ge=0)
    optimizer_states: Literal["float32", "bfloat16", "8bit"] = Field(
        "float32", description="number format of AdamW's two moments of each weight; 8bit: bitsandbytes' AdamW8bit"
    )
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast where the device computes in bf16, else fp32"
    )
    activation_checkpointing: Literal["auto", "off", "full"] = Field(
        "auto", description="layers that recompute their activations; auto: on a GPU as many as its memory requires"
    )
    cuda_graphs: Literal["auto", "off"] = Field(
        "auto", description="auto: on a GPU, passes of a repeated shape run as one CUDA graph"
    )
    length_grouped: bool = Field(False, description="batch groups of about equal length together")
    parallel: Literal["none", "ddp", "fsdp2"] = Field(
        "none", description="several processes: ddp: each with the whole model; fsdp2: each with a part of it"
    )
    processes: int | None = Field(
        None, ge=1, description="number of processes if parallel, on all nodes together; null: one per GPU"
    )
    nodes: int | None = Field(
        None,
        ge=1,
        description="number of nodes of a Slurm job that processes are on if parallel; null: this one, or those on "
        "which srun or torchrun started the training",
    )
    gather: Literal["auto", "step", "layer"] = Field(
        "auto",
        description="fsdp2: when a process gets the whole weights: once a step, or layer by layer, which takes less "
        "memory and more time; auto: once a step if they fit",
    )
    reduction: Literal["fp32", "bf16"] = Field(
        "fp32", description="fsdp2: number format in which gradients of linear layers are summed over processes"
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads, whatever --cores says, because the last bits of PyTorch's sums depend on them; null: "
        "as many as Snakemake gives",
    )
    validation: Validation | None = None
    lora: Lora | None = Field(None, description="train adapters of this sort; null: train all weights")
    bi_encoder: BiEncoding | None = Field(None, description="null: a reranker is trained")
    start: Name | None = Field(
        None,
        description="training whose checkpoint of the same model and seed is trained further; null: the model itself",
    )
    seed: Seed = 42

    @field_validator("loss")
    @classmethod
    def _loss_is_known(cls, loss: str) -> str:
        if loss not in LOSS_NAMES:
            raise ValueError(f"loss {shown(loss)} is unknown; known: {', '.join(LOSS_NAMES)}")
        return loss

    @model_validator(mode="after")
    def _optimizer_states_are_shared_out(self) -> Self:
        if self.optimizer_states == "8bit" and self.parallel == "fsdp2":
            raise ValueError("optimizer_states 8bit: not with parallel fsdp2; choose bfloat16, or parallel ddp")
        return self

    @model_validator(mode="after")
    def _nodes_fit(self) -> Self:
        if self.nodes is None or self.nodes == 1:
            return self
        if self.parallel == "none":
            raise ValueError(f"nodes: {self.nodes} needs several processes; set parallel to ddp or fsdp2")
        if self.processes is not None and self.processes % self.nodes:
            raise ValueError(f"processes: {self.processes} cannot be equally many on {self.nodes} nodes")
        return self

    @model_validator(mode="after")
    def _bi_encoder_fits(self) -> Self:
        if self.bi_encoder is None:
            return self
        if self.loss not in BI_ENCODER_LOSSES:
            raise ValueError(f"loss {self.loss}: not for bi_encoder; choose {' or '.join(BI_ENCODER_LOSSES)}")
        if self.validation is not None:
            raise ValueError("validation: reranks held-out queries, but bi_encoder trains a retriever; leave it out")
        if self.template is not None:
            raise ValueError("template: a bi-encoder reads each text alone; leave it out")
        return self


class SeededTraining(Training):
    """A training, once or with several seeds."""

    seeds: list[Seed] = Field(
        [], description="train once with each; tables print mean and standard deviation. Empty: once, with `seed`"
    )

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"a seed appears twice in {seeds}; give each once")
        return seeds


class TrainSettings(Training):
    """The settings of `ssmrank train`: a training section with a model's overrides applied."""

    negatives_count: int = Field(ge=1)


class RerankerRow(Section):
    """A model after one training."""

    model: Name
    training: Name = Field(description="none: the model's checkpoint as it is, which must then be a trained reranker")
