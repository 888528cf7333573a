"""Section tracking: where MLflow keeps runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ssmrank.config.addresses import has_password
from ssmrank.config.section import Section


class Tracking(Section):
    """Where MLflow keeps runs."""

    uri: str = Field(
        "sqlite:///mlflow.db",
        description="the store of runs: a file of SQLite, a PostgreSQL database or MLflow's server, without a password",
    )
    artifacts: str | None = Field(
        None,
        description="where a new experiment keeps models, such as s3://bucket/folder; by default in the folder mlruns",
    )
    experiment: str = "ssmrank"
    models: Literal["path", "copy", "none"] = Field(
        "path",
        description="what MLflow keeps of a checkpoint, as a model that it can load: its path, a copy, or nothing",
    )

    @field_validator("uri", "artifacts")
    @classmethod
    def _has_no_password(cls, address: str | None) -> str | None:
        if address is not None and has_password(address):
            raise ValueError("holds a password; leave it out, and put it into PGPASSWORD or ~/.pgpass")
        return address
