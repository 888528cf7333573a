"""Settings of tables: every name of params.yaml resolved to what is printed for it and where its values are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from ssmrank.config.fusions import FittedWeights, FusionMethod
from ssmrank.config.models import RandomModel
from ssmrank.config.params import Params
from ssmrank.config.retrievers import FusedRetriever, Retriever
from ssmrank.config.section import Section
from ssmrank.config.tables import Table, TableReranker, TableSection, Tests, TestSet, Tolerance


class ComparedColumn(Section):
    """A metric on one test set, or its mean over several that count the same; a test is COLLECTION/SPLIT."""

    metric: str
    tests: list[str] = Field(min_length=1)


class ComparedRow(Section):
    """A system: RETRIEVER or RERANKING/TRAINING/MODEL, or that with /FUSION, one for each seed.

    There is none where only published numbers are shown.

    The metrics of a run on a test are in TEST/RUN.json below the folder of metrics, the values of each query in
    TEST/RUN.json below another.
    """

    runs: list[str]
    columns: list[int] | None = Field(None, description="numbers of the columns that it is run on; null: all")

    def has(self, column: int) -> bool:
        """Whether it has runs on the column of this number."""
        return bool(self.runs) and (self.columns is None or column in self.columns)


class ResultColumn(ComparedColumn):
    """A column of values."""

    label: str
    paper: str | None = None


class RowFusion(Section):
    """How the runs of a row became one."""

    label: str = Field(description="what the row's name says of it")
    method: Literal["z-score", "min-max", "rrf"]
    k: int
    names: list[str] = Field(description="of what is fused, in the order of the weights")
    depth: int | None = Field(description="documents of each run; null: those that were reranked")
    weights: list[float] | None = Field(description="null: all the same, or fitted")
    fitted: str = Field("", description="what the weights were fitted on; empty: they were given")


class ResultRow(ComparedRow):
    """What is printed of a system beside its values."""

    label: str
    kind: Literal["E", "ED", "D", ""] = Field("", description="superscript; empty for a first stage")
    size: str = ""
    prior: str = Field("", description="what it reranks, such as BM25 top-30; empty for a first stage")
    length: str = ""
    max_length: int | None = Field(None, description="tokens; tells apart rows of the paper with one model")
    pretrained: bool | None = Field(None, description="None: a first stage, or not trained here")
    fusion: RowFusion | None = Field(None, description="null: nothing is fused")


class ResultSection(Section):
    """Rows under one title."""

    title: str
    rows: list[ResultRow]


class TableSettings(Section):
    """What `ssmrank table results` is given: all that is printed but the values, and nothing else."""

    caption: str
    label: str = ""
    collections: list[str] = Field(description="titles of the test collections")
    columns: list[ResultColumn]
    sections: list[ResultSection]
    alpha: float | None = Field(None, description="level of the tests whose marks are printed")
    test: Literal["randomization", "t"] = "randomization"
    baseline: str | None = Field(None, description="label of the row that all are compared with; null: every pair")
    depth: int | None = Field(None, description="documents of a query that rerankers reorder")
    remainder: Literal["dropped", "kept"] = "dropped"
    tolerance: Tolerance = Tolerance()

    def metric_keys(self) -> list[str]:
        """Every TEST/RUN once, in the order of rows and columns."""
        return _every_key(self.columns, [row for section in self.sections for row in section.rows])


class Comparison(Section):
    """Two rows of a table that are compared on each of its columns; rows are counted from 0 through all sections."""

    row: int
    other: int


class SignificanceSettings(Tests):
    """What `ssmrank table significance` is given: rows, columns, and for each section the pairs of rows to compare."""

    columns: list[ComparedColumn]
    rows: list[ComparedRow]
    families: list[list[Comparison]] = Field(description="Holm's correction is over one of these, for each column")

    def metric_keys(self) -> list[str]:
        """Every TEST/RUN once, in the order of rows and columns."""
        return _every_key(self.columns, self.rows)


def table_settings(params: Params, name: str) -> TableSettings:
    """What table `name` prints, with every name resolved to what is printed for it."""
    table = params.defined_table(name)
    sections = [ResultSection(title=section.title, rows=_rows(params, table, section)) for section in table.sections]
    rows = [row for section in sections for row in section.rows]
    collections = [params.collections[name].title for test in table.tests for name in test.collections]
    tests, baseline = table.significance, table.baseline_row
    return TableSettings(
        caption=table.caption.strip(),
        label=table.label,
        collections=list(dict.fromkeys(collections)),
        columns=[
            ResultColumn(label=test.label, metric=test.metric, tests=_tests(test), paper=test.paper)
            for test in table.tests
        ],
        sections=sections,
        alpha=tests.alpha if tests else None,
        test=tests.test if tests else "randomization",
        baseline=None if baseline is None else f"{rows[baseline].label} {rows[baseline].length}".strip(),
        depth=params.rerankings[table.reranking].depth,
        remainder=params.rerankings[table.reranking].remainder,
        tolerance=table.tolerance,
    )


def significance_settings(params: Params, name: str) -> SignificanceSettings | None:
    """What is compared in table `name`; None where it asks for no tests."""
    table = params.defined_table(name)
    if table.significance is None:
        return None
    baseline = table.baseline_row
    families: list[list[Comparison]] = []
    rows: list[ComparedRow] = []
    for section in table.sections:
        first = len(rows)
        rows += [ComparedRow(runs=row.runs, columns=row.columns) for row in _rows(params, table, section)]
        here = [row for row in range(first, len(rows)) if rows[row].runs]
        if baseline is None:
            families.append([Comparison(row=row, other=other) for other in here for row in here if row > other])
        else:
            families.append([Comparison(row=row, other=baseline) for row in here if row != baseline])
    return SignificanceSettings(
        **table.significance.model_dump(exclude={"baseline"}),
        columns=[ComparedColumn(metric=test.metric, tests=_tests(test)) for test in table.tests],
        rows=rows,
        families=[family for family in families if family],
    )


def _rows(params: Params, table: Table, section: TableSection) -> list[ResultRow]:
    """The rows of a section: published ones, retrievers, rerankers."""
    reranking = params.rerankings[table.reranking]
    prior = f"{params.retrievers[reranking.retriever].label} top-{reranking.depth}"
    own = table.tests_of(section)
    columns = [table.tests.index(test) for test in own] if len(own) < len(table.tests) else None
    rows = [ResultRow(label=label, runs=[]) for label in section.published]
    rows += [
        ResultRow(
            label=params.retrievers[name].label,
            runs=[name],
            columns=columns,
            fusion=_fused_first_stage(params, params.retrievers[name]),
        )
        for name in section.retrievers
    ]
    for row in section.rerankers:
        model, training = params.models[row.model], params.trainings.get(row.training)
        rows.append(
            ResultRow(
                label=f"{model.label} {params.fusion_label(row.fusion)}" if row.fusion else model.label,
                runs=_runs(params, table, row),
                columns=columns,
                kind=model.kind,
                size=model.size,
                prior=prior,
                length=training.label if training else "",
                max_length=training.max_length if training else None,
                pretrained=not isinstance(model.source, RandomModel) if training else None,
                fusion=_fused_reranker(params, row.fusion) if row.fusion else None,
            )
        )
    return rows


def _runs(params: Params, table: Table, row: TableReranker) -> list[str]:
    end = f"/{row.fusion}" if row.fusion else ""
    return [f"{table.reranking}/{name}/{row.model}{end}" for name in params.seeded(row.training)]


def _fused_reranker(params: Params, name: str) -> RowFusion:
    fusion = params.fusions[name]
    names = [*params.fused_names(fusion), "the reranker"]
    return _fusion(params, fusion, params.fusion_label(name), names, None)


def _fused_first_stage(params: Params, retriever: Retriever) -> RowFusion | None:
    if not isinstance(retriever, FusedRetriever):
        return None
    return _fusion(params, retriever, retriever.label, params.fused_names(retriever), retriever.depth)


def _fusion(params: Params, fusion: FusionMethod, label: str, names: list[str], depth: int | None) -> RowFusion:
    weights, fitted = fusion.weights, ""
    if isinstance(weights, FittedWeights):
        of = f"of {params.collections[weights.collection].title}" if weights.collection else "of each collection"
        fitted, weights = f"{weights.metric} on split {weights.split} {of}", None
    return RowFusion(**fusion.how, label=label, names=names, depth=depth, weights=weights, fitted=fitted)


def _tests(test: TestSet) -> list[str]:
    return [f"{collection}/{test.split}" for collection in test.collections]


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
