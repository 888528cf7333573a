"""Settings of tables of models and trainings: every name from params.yaml is resolved to what is printed for it."""

from __future__ import annotations

from ssmrank.config.section import Section


class OverviewRow(Section):
    """One line: the text of each column, and the name of the model whose parameters are counted, if any."""

    cells: list[str]
    counted: str | None = None


class OverviewSection(Section):
    """Rows under one title."""

    title: str
    rows: list[OverviewRow]


class OverviewSettings(Section):
    """The settings of `ssmrank table overview`. A counted row has one cell fewer than there are columns."""

    caption: str
    label: str = ""
    columns: list[str]
    sections: list[OverviewSection]
