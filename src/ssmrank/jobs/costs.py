"""Settings of the subcommands that gather costs and speeds."""

from __future__ import annotations

from ssmrank.config.cost_settings import (
    CostRow,
    CostSettings,
    EfficiencyRow,
    EfficiencySettings,
    TokenFigureSettings,
    TokenRow,
)
from ssmrank.config.models import PretrainedModel
from ssmrank.config.params import Params
from ssmrank.config.trainings import NO_TRAINING
from ssmrank.jobs.places import Places


def cost_settings(params: Params, table: str, places: Places) -> CostSettings:
    """For `ssmrank measure costs`: the rerankers of a table; no rows if the table shows no costs."""
    section = params.tables[table]
    if section.costs is None:
        return CostSettings(rows=[])
    timed = section.costs.speed
    timed_models: set[str] = set()
    rows = []
    for row in (row for part in section.sections for row in part.rerankers):
        source = params.models[row.model].source
        trainings = params.seeded(row.training)
        run = f"{section.reranking}/{trainings[0]}/{row.model}"
        speed = None
        # A model's speed does not depend on how it was trained, so only its first row is timed.
        if timed is not None and row.model not in timed_models:
            timed_models.add(row.model)
            speed = places.speed_of(f"{timed.collection}/{timed.split}/{run}")
        rows.append(
            CostRow(
                run=f"{run}/{row.fusion}" if row.fusion else run,
                checkpoints=[places.checkpoint_of(name, row.model) for name in trainings if name != NO_TRAINING],
                pretrained=(
                    places.pretrained_of(source.pretraining, source.model)
                    if isinstance(source, PretrainedModel)
                    else None
                ),
                speed=speed,
            )
        )
    return CostSettings(rows=rows)


def efficiency_settings(params: Params, places: Places) -> EfficiencySettings:
    """For `ssmrank figure efficiency`: the rerankers of the first table on its first test."""
    table = next(iter(params.tables.values()))
    test = table.tests[0]
    collection = test.collections[0]
    rows = []
    for row in (row for section in table.sections for row in section.rerankers if row.fusion is None):
        run = f"{collection}/{test.split}/{table.reranking}/{params.seeded(row.training)[0]}/{row.model}"
        section = params.trainings.get(row.training)
        label = params.models[row.model].label + (f", {section.label}" if section else "")
        rows.append(EfficiencyRow(label=label, metrics=places.metrics_of(run), speed=places.speed_of(run)))
    title = f"{params.collections[collection].title}, {test.split}"
    return EfficiencySettings(title=title, metric=test.metric, rows=rows)


def token_figure_settings(params: Params, table: str, places: Places) -> TokenFigureSettings:
    """For `ssmrank figure tokens`: a table's rerankers that are not fused, on its tests of the first one's metric.

    Tokens do not depend on the seed, so those of the first checkpoint are counted. Rerankers that are not run on all of
    these tests are left out.
    """
    section = params.defined_table(table)
    metric = section.tests[0].metric
    tests = [test for test in section.tests if test.metric == metric]
    names = [f"{collection}/{test.split}" for test in tests for collection in test.collections]
    rows, first_stages = [], []
    for part in section.sections:
        if any(test not in section.tests_of(part) for test in tests):
            continue
        first_stages += part.retrievers
        for row in (row for row in part.rerankers if row.fusion is None):
            training = params.trainings.get(row.training)
            runs = [f"{section.reranking}/{name}/{row.model}" for name in params.seeded(row.training)]
            rows.append(
                TokenRow(
                    model=params.models[row.model].label,
                    training=training.label if training else "not trained here",
                    metrics=[[places.metrics_of(f"{name}/{run}") for name in names] for run in runs],
                    tokens=[places.tokens_of(f"{name}/{runs[0]}") for name in names],
                )
            )
    titles = [params.collections[collection].title for test in tests for collection in test.collections]
    title = ", ".join(dict.fromkeys(titles))
    return TokenFigureSettings(
        title=title if len(names) == 1 else f"Mean of {title}",
        metric=metric,
        rows=rows,
        first_stage=params.retrievers[first_stages[0]].label if first_stages else "",
        first_stage_metrics=[places.metrics_of(f"{name}/{one}") for one in first_stages[:1] for name in names],
    )
