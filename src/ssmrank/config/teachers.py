"""Section teachers: the systems whose scores a distillation loss learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ssmrank.config.encoders import Encoder
from ssmrank.config.rerankings import Reranking
from ssmrank.config.section import Name, Section


class RunTeacher(Section):
    """The scores of a first-stage run."""

    kind: Literal["run"]
    retriever: Name
    weight: float = Field(1.0, gt=0)


class EncoderTeacher(Section):
    """Inner products of a bi-encoder's vectors."""

    kind: Literal["encoder"]
    encoder: Name
    weight: float = Field(1.0, gt=0)


class RerankerTeacher(Section):
    """A reranker: the checkpoint of a training with its key `seed`, or a model's checkpoint as it is."""

    kind: Literal["reranker"]
    model: Name
    training: Name = Field(description="none: the model's checkpoint as it is")
    weight: float = Field(1.0, gt=0)
    token_budget: int = Field(32768, ge=16, description="tokens in one forward pass")
    precision: Literal["auto", "fp32", "bf16", "fp8"] = "auto"


TeacherMember = Annotated[RunTeacher | EncoderTeacher | RerankerTeacher, Field(discriminator="kind")]


class Teacher(Section):
    """Whose scores a distillation loss learns: the weighted mean of its members' z-scores, times `scale`.

    A member's z-scores are over the first `depth` documents of `retriever` for the query. Those of a reranker, which
    reads each pair, are over the group. A document that is not in a run gets the lowest score of these.
    """

    members: dict[Name, TeacherMember] = Field(min_length=1)
    retriever: Name = Field(description="usually the one that the negatives come from")
    depth: int = Field(100, ge=2)
    scale: float = Field(
        1.0, gt=0, description="inverse temperature of the softmax over the scores, which KL divergence compares with"
    )
    positive_bonus: float = Field(0.0, ge=0, description="added to the relevant document's score")

    @property
    def runs(self) -> list[RunTeacher]:
        """The members that are first-stage runs."""
        return [member for member in self.members.values() if isinstance(member, RunTeacher)]

    @property
    def encoders(self) -> list[EncoderTeacher]:
        """The members that are bi-encoders."""
        return [member for member in self.members.values() if isinstance(member, EncoderTeacher)]

    @property
    def rerankers(self) -> list[RerankerTeacher]:
        """The members that are rerankers."""
        return [member for member in self.members.values() if isinstance(member, RerankerTeacher)]


class TeachSettings(Section):
    """The settings of `ssmrank teach`: a teacher with the sections of its members."""

    members: dict[Name, RunTeacher | Encoder | Reranking]
    weights: dict[Name, float]
    depth: int
    scale: float
    positive_bonus: float
    negatives_count: int
