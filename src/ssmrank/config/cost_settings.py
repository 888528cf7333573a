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


class TokenRow(Section):
    """A reranker: names of its model and training, and the files with its metrics and its tokens.

    metrics: for each seed the file of each test; tokens: the file of each test.
    """

    model: str
    training: str
    metrics: list[list[str]]
    tokens: list[str]


class TokenFigureSettings(Section):
    """The input of `ssmrank figure tokens`: what the figure shows.

    first_stage: name of what is reranked; first_stage_metrics: the file of each test, none if the table lacks the row.
    """

    title: str
    metric: str
    rows: list[TokenRow]
    first_stage: str = ""
    first_stage_metrics: list[str] = []
