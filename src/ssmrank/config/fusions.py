"""Section fusions: how runs are fused, and the settings of the subcommands that fuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from ssmrank.config.metrics import METRICS_HELP, check_metric
from ssmrank.config.section import Name, Section
from ssmrank.config.trainings import RerankerRow


class FittedWeights(Section):
    """Weights chosen from a grid: those with the best mean of a metric on a split."""

    collection: Name | None = Field(
        None,
        description="collection of that split; null: the fused run's own, so that each collection gets its own weights",
    )
    split: Name = Field(
        description="split whose queries the weights are fitted on; no table that shows the fused runs may report it"
    )
    metric: str = Field("nDCG@10", description=METRICS_HELP)
    steps: int = Field(
        11,
        ge=2,
        le=101,
        description="number of values from 0 to 1 that are tried for a weight; all weights add up to 1",
    )

    def fitted_on(self, collection: str) -> tuple[str, str]:
        """The collection and split on which the weights for runs of this collection are fitted."""
        return self.collection or collection, self.split

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, metric: str) -> str:
        return check_metric(metric)


def _given_or_fitted(weights: Any) -> str:
    return "(fitted)" if isinstance(weights, Mapping | FittedWeights) else "(given)"


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


Weights = Annotated[
    Annotated[list[Weight], Tag("(given)")] | Annotated[FittedWeights, Tag("(fitted)")],
    Discriminator(_given_or_fitted),
]


class FusionMethod(Section):
    """How runs are fused: a document's score is a weighted sum over the runs."""

    method: Literal["z-score", "min-max", "rrf"] = Field(
        "z-score",
        description="what is summed: a query's scores less their mean and over their standard deviation, or from 0 to "
        "1, or 1 / (k + rank) (reciprocal rank fusion, Cormack et al. 2009)",
    )
    k: int | None = Field(None, ge=0, description="of rrf; null: 60")
    retrievers: list[Name] = Field([], description="retrievers whose runs are fused")
    weights: Weights | None = Field(
        None, description="one weight per run, in their order, or how weights are fitted; null: equal weights"
    )

    @model_validator(mode="after")
    def _k_is_of_rrf(self) -> Self:
        if self.k is not None and self.method != "rrf":
            raise ValueError(f"k belongs to method rrf, not to {self.method}; remove it, or set method: rrf")
        return self

    @field_validator("retrievers")
    @classmethod
    def _retrievers_differ(cls, retrievers: list[str]) -> list[str]:
        twice = next((name for name in retrievers if retrievers.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is named twice; name it once, with a weight")
        return retrievers

    @property
    def how(self) -> dict[str, Any]:
        """The method and k, with its default filled in."""
        return {"method": self.method, "k": 60 if self.k is None else self.k}

    def check_weights(self, names: list[str]) -> None:
        """Raises ValueError if given weights are not one for each fused run, or are all 0."""
        if not isinstance(self.weights, list):
            return
        if len(self.weights) != len(names):
            raise ValueError(
                f"weights: {len(self.weights)} for {len(names)} runs; give one for each of {', '.join(names)}"
            )
        if not any(self.weights):
            raise ValueError("weights: all are 0; give one that is above 0")


class Fusion(FusionMethod):
    """The runs that a reranker's run is fused with: first-stage runs and other rerankers' runs.

    The reranker's own run is the last of them. Only documents that were reranked count.
    """

    rerankers: list[RerankerRow] = Field(
        [], description="rerankers whose runs of the same reranking and seed are fused"
    )
    label: str = Field(
        "", description="what tables append to the reranker's name; empty: + and the names of what is fused"
    )

    @model_validator(mode="after")
    def _fuses_something(self) -> Self:
        rerankers = [f"{row.model} ({row.training})" for row in self.rerankers]
        if not self.retrievers and not rerankers:
            raise ValueError("nothing is named to fuse a reranker with; add retrievers or rerankers")
        if len(set(rerankers)) < len(rerankers):
            raise ValueError("rerankers: one is named twice; name it once, with a weight")
        self.check_weights([*self.retrievers, *rerankers, "the reranker itself"])
        return self


class FuseSettings(Section):
    """The settings of `ssmrank fuse run`."""

    method: Literal["z-score", "min-max", "rrf"]
    k: int = 60
    depth: int = Field(ge=1, description="documents of each query")
    weights: list[Weight] | None = Field(
        None, description="one weight per run; null: the weights of a file, else equal weights"
    )


class FuseWeightsSettings(FuseSettings):
    """The settings of `ssmrank fuse weights`."""

    metric: str
    steps: int
