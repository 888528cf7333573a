"""Section evaluation: the metrics."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from ssmrank.config.section import Section

METRICS = ("nDCG@k", "MRR@k", "MAP@k", "P@k", "Recall@k", "R@k", "nDCG", "MRR", "MAP")
"""The known metrics, where k is a cutoff of at least 1. All except nDCG may set the lowest grade that counts as
relevant, as in Recall(rel=2)@1000 (trec_eval's -l 2). The default is 1."""

METRIC_PATTERN = re.compile(
    r"(?P<graded>nDCG)(?:@(?P<k0>[1-9][0-9]{0,8}))?"
    r"|(?P<whole>MRR|MAP)(?:\(rel=(?P<rel1>[1-9][0-9]{0,8})\))?(?:@(?P<k1>[1-9][0-9]{0,8}))?"
    r"|(?P<cut>P|Recall|R)(?:\(rel=(?P<rel2>[1-9][0-9]{0,8})\))?@(?P<k2>[1-9][0-9]{0,8})"
)


def check_metric(metric: str) -> str:
    """Returns the metric; raises ValueError if it is unknown."""
    if not METRIC_PATTERN.fullmatch(metric):
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}, where k is a cutoff such as 10")
    return metric


class Evaluation(Section):
    """Which metrics are computed: name, then the cutoff after @."""

    metrics: list[str] = Field(min_length=1, description=f"known: {', '.join(METRICS)}")

    @field_validator("metrics")
    @classmethod
    def _metrics_are_known(cls, metrics: list[str]) -> list[str]:
        for metric in metrics:
            check_metric(metric)
        if len(set(metrics)) < len(metrics):
            raise ValueError(f"a metric is named twice in {', '.join(metrics)}; keep one of each")
        return metrics
