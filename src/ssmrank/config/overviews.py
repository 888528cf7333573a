"""Section overviews: tables of models and of trainings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ssmrank.config.section import Name, Section
from ssmrank.config.trainings import RerankerRow


class ModelsSection(Section):
    """Models under one title."""

    title: str
    models: list[Name] = Field(min_length=1)


class ModelsOverview(Section):
    """A table of models: kind, size, tokens of pretraining, parameters as counted in the checkpoint."""

    kind: Literal["models"]
    caption: str
    label: str = Field("", pattern=r"^[A-Za-z0-9:._-]*$")
    sections: list[ModelsSection] = Field(min_length=1)


class TrainingsSection(Section):
    """Models after a training, under one title."""

    title: str
    rerankers: list[RerankerRow] = Field(min_length=1)


class TrainingsOverview(Section):
    """A table of how models are trained."""

    kind: Literal["trainings"]
    caption: str
    label: str = Field("", pattern=r"^[A-Za-z0-9:._-]*$")
    sections: list[TrainingsSection] = Field(min_length=1)


Overview = Annotated[ModelsOverview | TrainingsOverview, Field(discriminator="kind")]
