"""Section tables: tables of results."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ssmrank.config.metrics import check_metric
from ssmrank.config.section import Name, Section, Seed, suggest
from ssmrank.config.trainings import RerankerRow


class TestSet(Section):
    """A column of a table."""

    __test__ = False  # otherwise pytest would take it for a class of tests

    collection: Name | Annotated[list[Name], Field(min_length=2)] = Field(
        description="test collections; if several, the mean of their means is shown"
    )
    split: Name
    metric: str
    label: str
    paper: str | None = Field(
        None,
        description="column of ssmrank/reporting/paper.yaml whose numbers are shown next to ours, such as passage-dev",
    )

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, metric: str) -> str:
        return check_metric(metric)

    @property
    def collections(self) -> list[str]:
        """The one or several collections."""
        return [self.collection] if isinstance(self.collection, str) else self.collection


class TableReranker(RerankerRow):
    """A row of a table: a reranker alone, or fused."""

    fusion: Name | None = Field(None, description="a name of section fusions; null: not fused")


class TableSection(Section):
    """Rows under one title; the best of them are bold."""

    title: str
    published: list[str] = Field(
        [], description="models of reporting/paper.yaml that are not run here: only their published numbers are shown"
    )
    retrievers: list[Name] = []
    rerankers: list[TableReranker] = []
    tests: list[str] = Field([], description="labels of the table's tests that these rows are run on; empty: all")

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if not self.published and not self.retrievers and not self.rerankers:
            raise ValueError(f"section {self.title!r} has no rows; add retrievers or rerankers, or remove it")
        return self


class Baseline(Section):
    """A row of a table that others are compared with: a retriever, or a model after a training, alone or fused."""

    retriever: Name | None = None
    model: Name | None = None
    training: Name | None = None
    fusion: Name | None = None

    @model_validator(mode="after")
    def _is_one_row(self) -> Self:
        reranker = self.model is not None and self.training is not None
        if reranker == (self.retriever is not None) or (self.model is None) != (self.training is None):
            raise ValueError("name either a retriever, or a model and a training")
        if self.fusion is not None and not reranker:
            raise ValueError("fusion needs a model and a training; add them, or remove fusion")
        return self


class Tests(Section):
    """How paired tests over queries are computed and judged."""

    test: Literal["randomization", "t"] = Field(
        "randomization", description="test that decides the marks; both are computed"
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="level of significance after Holm's correction")
    permutations: int = Field(
        100_000, ge=100, description="random sign changes; all of them if there are no more than this"
    )
    seed: Seed = 42


class Significance(Tests):
    """Paired significance tests between the rows of each section of a table, for each of its columns."""

    baseline: Baseline | None = Field(None, description="row that all others are compared with; null: every pair")


class Tolerance(Section):
    """Tolerances of the verdict on reproduction: differences from the paper's number, in points of the tables."""

    ok: float = Field(0.5, ge=0, description="OK up to here")
    okish: float = Field(1.5, ge=0, description="difference up to which a cell is OKish; beyond it is FAIL")

    @model_validator(mode="after")
    def _okish_is_wider(self) -> Self:
        if self.okish < self.ok:
            raise ValueError(f"okish {self.okish} is below ok {self.ok}, but must be the wider tolerance")
        return self


class SpeedTest(Section):
    """The reranking that is timed, with and without document reuse."""

    collection: Name
    split: Name
    pairs: int | None = Field(None, ge=1, description="pairs of the first queries; null: all")


class Costs(Section):
    """Columns of what rerankers cost: parameters, tokens of pretraining, time of training, speed."""

    speed: SpeedTest | None = Field(None, description="null: speed is not measured")


class Table(Section):
    """A table of results."""

    caption: str = Field(description="beginning of the caption in plain text; the meaning of the marks is added to it")
    label: str = Field("", pattern=r"^[A-Za-z0-9:._-]*$", description="LaTeX label, such as tab:documents")
    reranking: Name
    tests: list[TestSet] = Field(min_length=1)
    sections: list[TableSection] = Field(min_length=1)
    significance: Significance | None = Field(None, description="null: no tests")
    costs: Costs | None = Field(None, description="null: columns of costs are not shown")
    tolerance: Tolerance = Tolerance()

    @model_validator(mode="after")
    def _sections_name_tests(self) -> Self:
        labels = [test.label for test in self.tests]
        for number, section in enumerate(self.sections):
            unknown = next((label for label in section.tests if label not in labels), None)
            if unknown is not None:
                hint = suggest(unknown, labels)
                raise ValueError(f"sections[{number}].tests: no test has the label {unknown!r}{hint}")
        return self

    def tests_of(self, section: TableSection) -> list[TestSet]:
        """The tests on which the rows of a section are run."""
        return [test for test in self.tests if not section.tests or test.label in section.tests]

    @property
    def baseline_row(self) -> int | None:
        """The number of the baseline's row, from 0 through all sections; None if the table has none."""
        if self.significance is None or self.significance.baseline is None:
            return None
        rows: list[Baseline | None] = []
        for section in self.sections:
            rows += [None] * len(section.published)
            rows += [Baseline(retriever=retriever) for retriever in section.retrievers]
            rows += [Baseline(**row.model_dump()) for row in section.rerankers]
        return rows.index(self.significance.baseline) if self.significance.baseline in rows else None
