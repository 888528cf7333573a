"""Settings of a comparison by ranx, and ranx's names of metrics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ssmrank.config.metrics import check_metrics, parse_metric
from ssmrank.config.section import Section, Seed

MOST_RUNS = 26
"""ranx names the runs of a report by letters."""

_MEASURES = {
    "nDCG": "ndcg",
    "RR": "mrr",
    "AP": "map",
    "P": "precision",
    "R": "recall",
    "Success": "hit_rate",
    "Rprec": "r-precision",
}
"""ranx's names of the measures that it computes as ir_measures does. Its RBP weighs documents by their grade."""


class ComparisonSettings(Section):
    """The settings of `ssmrank table comparison`: what ranx computes, and which test it does."""

    metrics: list[str] = Field(
        min_length=1, description=f"metrics by ir_measures' names, with or without a cutoff; {', '.join(_MEASURES)}"
    )
    test: Literal["student", "fisher", "tukey"] = Field(
        "student", description="paired t-test, Fisher's randomization test or Tukey's HSD test"
    )
    alpha: float = Field(
        0.05, gt=0, lt=1, description="largest p value that is significant; ranx corrects none of them"
    )
    permutations: int = Field(1000, ge=100, description="random permutations of test fisher")
    seed: Seed = 42

    @field_validator("metrics")
    @classmethod
    def _ranx_has_metrics(cls, metrics: list[str]) -> list[str]:
        for name in check_metrics(metrics):
            ranx_metric(name)
        return metrics


def ranx_metric(name: str) -> str:
    """ranx's name of a metric: ndcg@10 for nDCG@10, mrr@10-l2 for RR(rel=2)@10.

    Raises ValueError for an unknown metric, and for one that ranx lacks or computes differently.
    """
    metric = parse_metric(name)
    parameters = dict(metric.parameters)
    level = parameters.pop("rel", None)
    if metric.measure not in _MEASURES or parameters:
        raise ValueError(f"ranx does not compute {name} as ir_measures does; it has {', '.join(_MEASURES)}")
    cutoff = "" if metric.cutoff is None else f"@{metric.cutoff}"
    return _MEASURES[metric.measure] + cutoff + (f"-l{level}" if level is not None else "")


def ranx_has(name: str) -> bool:
    """Whether ranx computes a known metric as ir_measures does."""
    try:
        return bool(ranx_metric(name))
    except ValueError:
        return False


def deepest(metrics: list[str]) -> int | None:
    """How many documents of a query the metrics look at; None: all."""
    cutoffs = [parse_metric(name).cutoff for name in metrics]
    known = [cutoff for cutoff in cutoffs if cutoff is not None]
    return max(known) if len(known) == len(cutoffs) else None
