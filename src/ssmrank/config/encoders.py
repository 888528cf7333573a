"""Section encoders: bi-encoders."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssmrank.config.section import Name, Section


class Encoding(Section):
    """How texts are encoded, whatever the bi-encoder."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    token_budget: int = Field(16384, ge=16, description="tokens in one forward pass")
    shard_documents: int = Field(100_000, ge=1, description="documents in one file of vectors")
    vectors: Literal["float16", "float32"] = Field(
        "float16",
        description="how documents' vectors are kept: in float16 they take half of the disk, but products are rounded, "
        "so that documents with nearly equal scores may change places; in float32 they are those of the encoder",
    )


class Encoder(Encoding):
    """A bi-encoder: a model of section models in the format of sentence-transformers, and how it encodes texts.

    Pooling, normalization and length are the model's own (modules.json) unless they are given here. A bi-encoder that
    was trained here (bi_encoder.json) has them and its instructions, and nothing of these may be given.
    """

    model: Name
    query_instruction: str = Field("", description="text before each query, including a blank at its end if needed")
    document_instruction: str = Field("", description="text before each document")
    pooling: Literal["first", "last", "mean"] | None = None
    normalize: bool | None = Field(None, description="vectors of length 1: the inner product is the cosine")
    max_length: int | None = Field(
        None, ge=8, description="most tokens of a text, including those that the tokenizer adds"
    )
    width: int | None = Field(
        None,
        ge=1,
        description="only the first numbers of a vector are kept, for models that are trained for it; null: all",
    )
