"""Settings of the subcommands that gather costs and speeds."""

from __future__ import annotations

from ssmrank.config.cost_settings import CostRow, CostSettings, EfficiencyRow, EfficiencySettings
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
