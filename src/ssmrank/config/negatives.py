"""Section negatives: how the negatives of training groups are sampled."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ssmrank.config.section import Name, Section, Seed


class RankBand(Section):
    """A range of ranks of the first-stage run, counted from 1, and the number of negatives sampled from it."""

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
    """Leaves out likely relevant candidates: those that another run scores near the positive (Qu et al. 2021)."""

    retriever: Name = Field(description="retriever whose run has the scores, such as a dense one")
    margin: float = Field(
        ge=0, description="leave out candidates that score above the positive's score minus this margin"
    )


class Negatives(Section):
    """How negatives are sampled for each relevant document."""

    retriever: Name
    depth: int = Field(ge=1, description="sample negatives from the first documents of the run, down to this rank")
    count: int = Field(ge=1, description="negatives for each positive")
    random: int = Field(0, ge=0, description="how many of them are drawn from the whole collection")
    bands: list[RankBand] = Field(
        [], description="how many of the others come from which ranks; empty: uniformly from all"
    )
    false_negatives: FalseNegatives | None = Field(
        None,
        description="how likely false negatives are left out; null: every document without a judgment is a candidate",
    )
    distinct_texts: bool = Field(False, description="no two documents of a group have the same text")
    positives: Literal["all", "retrieved"] = Field(
        "all", description="all: every relevant document (the paper); retrieved: those within `depth` of the run"
    )
    seed: Seed = 42

    @model_validator(mode="after")
    def _counts_add_up(self) -> Self:
        if self.random > self.count:
            raise ValueError(f"random {self.random} is more than count {self.count}, which includes them")
        banded = sum(band.count for band in self.bands)
        if self.bands and banded + self.random != self.count:
            raise ValueError(f"bands have {banded} negatives and random {self.random}; count must be their sum")
        deep = next((band.last for band in self.bands if band.last > self.depth), None)
        if deep is not None:
            raise ValueError(f"bands reach rank {deep}, but depth is {self.depth}; raise depth")
        if any(later.first <= earlier.last for earlier, later in zip(self.bands, self.bands[1:], strict=False)):
            raise ValueError("bands overlap or are out of order; each must begin after the previous one ends")
        return self
