"""Section evaluation: the metrics."""

from __future__ import annotations

from pydantic import Field, field_validator

from ssmrank.config.metrics import METRICS_HELP, check_metrics
from ssmrank.config.section import Section


class Evaluation(Section):
    """Which metrics are computed, by ir_measures' names."""

    metrics: list[str] = Field(min_length=1, description=METRICS_HELP)

    @field_validator("metrics")
    @classmethod
    def _metrics_are_known(cls, metrics: list[str]) -> list[str]:
        return check_metrics(metrics)
