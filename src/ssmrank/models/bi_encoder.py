"""Bi-encoders that are trained here: a query or a document becomes one vector, alone.

A text is read as `[BOS] {text} [EOS]` by decoders and as `[CLS] {text} [SEP]` by encoders; an instruction may be put
before the text. The vector is the pooled state of its tokens. Zhang et al. (2024, "Mamba Retriever") pool the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import TypeAdapter

from ssmrank.errors import UserError
from ssmrank.io.model_files import BI_ENCODER_FILE, TRAINED_FILE
from ssmrank.models.backbones import (
    Pooling,
    load_backbone,
    output_width,
    pooled_forward,
    read_backbone_config,
    scored_forward,
    unread_backbone,
)
from ssmrank.models.packed_model import PackedModel, load_tokenizer
from ssmrank.models.packing import Packed
from ssmrank.models.reading import read_json, reading
from ssmrank.models.templates import Kind, special_token, start_of_texts, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

POOLINGS: dict[Kind, tuple[Pooling, Pooling]] = {
    "D": ("last", "mean"),
    "E": ("first", "mean"),
    "ED": ("first", "mean"),
}
"""The poolings of each kind of model, the default first."""


@dataclass(frozen=True)
class BiEncoderSettings:
    """What a bi-encoder's checkpoint stores besides the backbone's config.

    kind: E, ED or D; max_length, query_length: limits of the tokens of a document and of a query; pooling: None for
    the default of the kind; normalize: whether vectors have length 1; widths: those that the beginning of a vector was
    trained to serve at (Matryoshka), besides the whole.
    """

    kind: Kind
    max_length: int
    query_length: int
    pooling: Pooling | None = None
    normalize: bool = True
    query_instruction: str = ""
    document_instruction: str = ""
    widths: tuple[int, ...] = ()

    @property
    def pooled(self) -> Pooling:
        """The pooling. Raises UserError for one that the kind does not have."""
        if self.pooling is not None and self.pooling not in POOLINGS[self.kind]:
            known = " or ".join(POOLINGS[self.kind])
            raise UserError(f"bi_encoder.pooling: {self.pooling} is not for models of kind {self.kind}; choose {known}")
        return self.pooling or POOLINGS[self.kind][0]


@dataclass(frozen=True)
class TextTemplate:
    """What is around a text: ids before and after it, and instructions, which are tokenized together with the text."""

    kind: Kind
    tokenizer: PreTrainedTokenizerBase
    before: tuple[int, ...]
    after: tuple[int, ...]
    query_instruction: str
    document_instruction: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, settings: BiEncoderSettings) -> TextTemplate:
        """The template of a bi-encoder. Raises UserError if the tokenizer lacks a special token."""
        causal = settings.kind == "D"
        before = start_of_texts(tokenizer) if causal else (special_token(tokenizer, "cls", "bos"),)
        after = (special_token(tokenizer, *(("eos", "sep") if causal else ("sep", "eos"))),)
        instructions = settings.query_instruction, settings.document_instruction
        return cls(settings.kind, tokenizer, before, after, *instructions)

    def tokenize_documents(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each document with its instruction, uncut, int32 ids."""
        return tokenize(self.tokenizer, [f"{self.document_instruction}{text}" for text in texts])

    def tokenize_queries(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of each query with its instruction, uncut, int32 ids."""
        return tokenize(self.tokenizer, [f"{self.query_instruction}{text}" for text in texts])

    def join(self, tokens: np.ndarray, max_length: int) -> np.ndarray:
        """One sequence of at most `max_length` ids, int32; the text is cut at its end."""
        return np.concatenate([self.before, tokens[: max_length - self.around], self.after]).astype(np.int32)

    @property
    def around(self) -> int:
        """How many tokens are around a text."""
        return len(self.before) + len(self.after)


class BiEncoderModel(PackedModel):
    """A backbone whose pooled state is a text's vector."""

    settings: BiEncoderSettings
    settings_file = BI_ENCODER_FILE

    def __init__(self, backbone: Any, tokenizer: PreTrainedTokenizerBase, settings: BiEncoderSettings) -> None:
        super().__init__(backbone, tokenizer, settings)
        self.pooling = settings.pooled
        self.width = output_width(backbone.config)
        self.template = TextTemplate.of(tokenizer, settings)
        too_wide = next((width for width in settings.widths if width > self.width), None)
        if too_wide is not None:
            raise UserError(f"bi_encoder.widths: {too_wide} is more than the model's width, {self.width}; lower it")

    def forward(self, packed: Packed) -> torch.Tensor:
        """The vectors of packed texts before normalization, float32 [S, width]."""
        return pooled_forward(self.backbone, packed, self.pooling).float()

    @torch.inference_mode()
    def vectors(self, packed: Packed) -> torch.Tensor:
        """The same as `forward`, without gradients and faster."""
        return scored_forward(self.backbone, packed, self.pooling).float()

    def query_sequences(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The sequences of queries."""
        return [self.template.join(ids, self.settings.query_length) for ids in self.template.tokenize_queries(texts)]

    def document_sequences(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The sequences of documents."""
        return [self.template.join(ids, self.settings.max_length) for ids in self.template.tokenize_documents(texts)]


def vectors_of(states: torch.Tensor, width: int, normalize: bool) -> torch.Tensor:
    """The first `width` numbers of each state, scaled to length 1 if `normalize`."""
    cut = states[:, :width]
    return torch.nn.functional.normalize(cut, dim=1) if normalize else cut


def new_bi_encoder(folder: str | Path, settings: BiEncoderSettings) -> BiEncoderModel:
    """A bi-encoder to be trained, from the backbone and tokenizer of a checkpoint folder of any sort."""
    return BiEncoderModel(load_backbone(folder), load_tokenizer(folder), settings)


def load_bi_encoder(folder: str | Path) -> BiEncoderModel:
    """A bi-encoder that `ssmrank train` wrote, float32, in evaluation mode. Raises UserError for another folder."""
    folder = Path(folder)
    file = folder / BI_ENCODER_FILE
    if not file.is_file():
        kind = "a reranker, which makes no vectors" if (folder / TRAINED_FILE).is_file() else "no bi-encoder"
        raise UserError(
            f"{folder}: is {kind} (no {BI_ENCODER_FILE}); train one with bi_encoder in the section of trainings"
        )
    with reading(f"{file}: was not written by `ssmrank train`"):
        settings = TypeAdapter(BiEncoderSettings).validate_python(read_json(file))
    model = BiEncoderModel(unread_backbone(read_backbone_config(folder)), load_tokenizer(folder), settings)
    model.read(folder)
    return model.eval()
