"""Settings of the subcommands that gather costs and speeds: for each reranker the files with its numbers."""

from __future__ import annotations

from ssmrank.config.section import Section


class CostRow(Section):
    """The files with a row's costs: folders of its checkpoints (one per seed) and pretraining, file of its speed."""

    run: str
    checkpoints: list[str]
    pretrained: str | None
    speed: str | None


class CostSettings(Section):
    """The input of `ssmrank measure costs`: the rows of a table that have costs."""

    rows: list[CostRow]


class EfficiencyRow(Section):
    """A reranker: its label and the files with its metrics and its speed."""

    label: str
    metrics: str
    speed: str


class EfficiencySettings(Section):
    """The input of `ssmrank figure efficiency`: what the figure shows."""

    title: str
    metric: str
    rows: list[EfficiencyRow]
