"""Settings of tables: every name from params.yaml is resolved to what is printed for it and where its values are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from ssmrank.config.section import Section
from ssmrank.config.tables import Tests, Tolerance


class ComparedColumn(Section):
    """A metric on one test set, or its unweighted mean over several. A test is COLLECTION/SPLIT."""

    metric: str
    tests: list[str] = Field(min_length=1)


class ComparedRow(Section):
    """The runs of a system, one for each seed.

    A run is RETRIEVER, RERANKING/TRAINING/MODEL or RERANKING/TRAINING/MODEL/FUSION. A row with only published numbers
    has no runs. The metrics of a run on a test are in TEST/RUN.json below the folder of metrics. The values of each
    query are in TEST/RUN.json below the folder of per-query values.
    """

    runs: list[str]
    columns: list[int] | None = Field(None, description="columns that the row has values for, by number; null: all")

    def has(self, column: int) -> bool:
        """Whether the row has runs for the column of this number."""
        return bool(self.runs) and (self.columns is None or column in self.columns)


class ResultColumn(ComparedColumn):
    """A column of values."""

    label: str
    paper: str | None = None


class RowFusion(Section):
    """How the runs of a row were fused."""

    label: str = Field(description="what is appended to the row's name")
    method: Literal["z-score", "min-max", "rrf"]
    k: int
    names: list[str] = Field(description="names of what is fused, in the order of the weights")
    depth: int | None = Field(description="documents of each run; null: those that were reranked")
    weights: list[float] | None = Field(description="null: all the same, or fitted")
    fitted: str = Field("", description="split that the weights were fitted on; empty: they were given")


class ResultRow(ComparedRow):
    """What is printed about a system in addition to its values."""

    label: str
    kind: Literal["E", "ED", "D", ""] = Field("", description="superscript; empty for a first stage")
    size: str = ""
    prior: str = Field("", description="what it reranks, such as BM25 top-30; empty for a first stage")
    length: str = ""
    max_length: int | None = Field(
        None, description="longest input in tokens; distinguishes the paper's rows of one model"
    )
    pretrained: bool | None = Field(None, description="None: a first stage, or not trained here")
    fusion: RowFusion | None = Field(None, description="null: nothing is fused")


class ResultSection(Section):
    """Rows under one title."""

    title: str
    rows: list[ResultRow]


class TableSettings(Section):
    """The settings of `ssmrank table results`: everything that is printed except the values."""

    caption: str
    label: str = ""
    collections: list[str] = Field(description="titles of the test collections")
    columns: list[ResultColumn]
    sections: list[ResultSection]
    alpha: float | None = Field(None, description="significance level of the printed marks")
    test: Literal["randomization", "t"] = "randomization"
    baseline: str | None = Field(
        None, description="label of the row that all others are compared with; null: every pair of rows"
    )
    depth: int | None = Field(None, description="documents of a query that rerankers reorder")
    remainder: Literal["dropped", "kept"] = "dropped"
    tolerance: Tolerance = Tolerance()

    def metric_keys(self) -> list[str]:
        """Every TEST/RUN once, in the order of rows and columns."""
        return _every_key(self.columns, [row for section in self.sections for row in section.rows])


class Comparison(Section):
    """Two rows of a table that are compared on each column; rows are numbered from 0 through all sections."""

    row: int
    other: int


class SignificanceSettings(Tests):
    """The settings of `ssmrank table significance`: rows, columns and the pairs of rows to compare in each section."""

    columns: list[ComparedColumn]
    rows: list[ComparedRow]
    families: list[list[Comparison]] = Field(description="rows that one Holm correction covers, for each column")

    def metric_keys(self) -> list[str]:
        """Every TEST/RUN once, in the order of rows and columns."""
        return _every_key(self.columns, self.rows)


def _every_key(columns: Iterable[ComparedColumn], rows: Iterable[ComparedRow]) -> list[str]:
    columns = list(columns)
    keys = (
        f"{test}/{run}"
        for row in rows
        for number, column in enumerate(columns)
        if row.has(number)
        for test in column.tests
        for run in row.runs
    )
    return list(dict.fromkeys(keys))
