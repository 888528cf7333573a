"""Section rerankings: which documents are reranked, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ssmrank.config.section import Name, Section

LongQueries = Annotated[
    Literal["cut", "error"],
    Field(
        description="what to do with a query that leaves no room for a document: cut it to half of max_length, or "
        "stop with an error"
    ),
]


Deterministic = Literal["batch"]
"""What scores do not depend on besides their pair: "batch": the other pairs, and how they are batched."""


class Passages(Section):
    """MaxP: windows over a document; the best one gives its score."""

    length: int = Field(ge=1, description="tokens of the document's text in a window")
    stride: int = Field(ge=1, description="tokens between the starts of two windows")


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
    deterministic: Deterministic | None = Field(
        None,
        description="batch: a pair's score has the same bits whatever else is reranked, and whatever the token budget "
        "and the number of processes; null: it depends on its batch by rounding",
    )
    long_queries: LongQueries = "cut"
    remainder: Literal["dropped", "kept"] = Field(
        "dropped",
        description="documents of the first stage beyond depth; kept: they stay below the reranked ones, in their "
        "order, so that metrics with a cutoff beyond depth count as many documents as for the first stage",
    )
    passages: Passages | None = Field(None, description="null: a document is scored by its first tokens")
    processes: int | None = Field(None, ge=1, description="processes, each on its own GPU; null: one")
