"""Settings of what gathers costs and speeds: for each reranker the files that its numbers are read from."""

from __future__ import annotations

from ssmrank.config.section import Section


class CostRow(Section):
    """Where the costs of a row are: folders of checkpoints (one a seed) and of the pretraining, file of the speed."""

    run: str
    checkpoints: list[str]
    pretrained: str | None
    speed: str | None


class CostSettings(Section):
    """What `ssmrank measure costs` is given: the rows of a table that have costs."""

    rows: list[CostRow]


class EfficiencyRow(Section):
    """A reranker: its label, and the files of its metrics and its speed."""

    label: str
    metrics: str
    speed: str


class EfficiencySettings(Section):
    """What `ssmrank figure efficiency` is given: what the figure shows."""

    title: str
    metric: str
    rows: list[EfficiencyRow]
