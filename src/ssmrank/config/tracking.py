"""Section tracking: where MLflow keeps runs."""

from __future__ import annotations

from ssmrank.config.section import Section


class Tracking(Section):
    """Where MLflow keeps runs."""

    uri: str = "sqlite:///mlflow.db"
    experiment: str = "ssmrank"
