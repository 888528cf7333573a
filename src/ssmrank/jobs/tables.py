"""Settings of tables of results and of the tests between their rows."""

from __future__ import annotations

from ssmrank.config.comparison_settings import ComparisonSettings, ranx_has
from ssmrank.config.fusions import FittedWeights, FusionMethod
from ssmrank.config.metrics import parse_metric
from ssmrank.config.models import RandomModel
from ssmrank.config.params import Params
from ssmrank.config.retrievers import FusedRetriever, Retriever
from ssmrank.config.table_settings import (
    ComparedColumn,
    ComparedRow,
    Comparison,
    ResultColumn,
    ResultRow,
    ResultSection,
    RowFusion,
    SignificanceSettings,
    TableSettings,
)
from ssmrank.config.tables import Table, TableReranker, TableSection, Tests, TestSet
from ssmrank.config.trainings import SEED_SIGN


def table_settings(params: Params, name: str) -> TableSettings:
    """For `ssmrank table results`: what table `name` prints, with every name resolved to what is printed for it."""
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


def significance_settings(params: Params, name: str) -> SignificanceSettings:
    """For `ssmrank table significance`: what is compared in table `name`, which must ask for tests."""
    table = params.defined_table(name)
    assert table.significance is not None
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


def comparison_settings(params: Params, name: str, test: str) -> ComparisonSettings:
    """For `ssmrank table comparison`: how ranx compares the runs of table `name` on test COLLECTION/SPLIT.

    The test and its level are those of the table's own tests of significance.
    """
    tests = params.defined_table(name).significance or Tests()
    return ComparisonSettings(
        metrics=compared_metrics(params, name, test),
        test="student" if tests.test == "t" else "fisher",
        alpha=tests.alpha,
        seed=tests.seed,
    )


def compared_metrics(params: Params, name: str, test: str) -> list[str]:
    """The metrics of table `name` on test COLLECTION/SPLIT that ranx has."""
    metrics = [column.metric for column in params.defined_table(name).tests if test in _tests(column)]
    return list({parse_metric(metric): metric for metric in metrics if ranx_has(metric)}.values())


def compared_runs(params: Params, name: str, test: str) -> dict[str, str]:
    """The names of the runs of table `name` on test COLLECTION/SPLIT, without the test, by unique labels."""
    table = params.defined_table(name)
    columns = {number for number, column in enumerate(table.tests) if test in _tests(column)}
    rows = [row for section in table.sections for row in _rows(params, table, section)]
    found = [(_label(row, run), run) for row in rows if any(map(row.has, columns)) for run in row.runs]
    labels = [label for label, _ in found]
    return {label if labels.count(label) == 1 else f"{label} ({run})": run for label, run in found}


def _label(row: ResultRow, run: str) -> str:
    """The label of one run of a row; a seed is named where it is not the training's own."""
    seed = run.partition(SEED_SIGN)[2].partition("/")[0]
    return f"{row.label} {row.length}".strip() + (f", seed {seed}" if seed else "")


def _rows(params: Params, table: Table, section: TableSection) -> list[ResultRow]:
    """The rows of a section: published ones, then retrievers, then rerankers."""
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
