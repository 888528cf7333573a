"""Section tracking: where MLflow keeps runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ssmrank.config.section import Section


class Tracking(Section):
    """Where MLflow keeps runs."""

    uri: str = "sqlite:///mlflow.db"
    experiment: str = "ssmrank"
    models: Literal["path", "copy", "none"] = Field(
        "path",
        description="what MLflow keeps of a checkpoint, as a model that it can load: its path, a copy, or nothing",
    )
