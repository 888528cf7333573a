"""Section negatives: how the negatives of training groups are sampled."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ssmrank.config.section import Name, Section, Seed


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
