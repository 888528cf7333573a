"""Settings of tables about models and trainings: every name of params.yaml resolved to what is printed for it."""

from __future__ import annotations

from ssmrank.config.section import Section


class OverviewRow(Section):
    """One line: what is printed in each column; a model whose parameters are counted, by its name, or none."""

    cells: list[str]
    counted: str | None = None


class OverviewSection(Section):
    """Rows under one title."""

    title: str
    rows: list[OverviewRow]


class OverviewSettings(Section):
    """What `ssmrank table overview` is given; a counted row has one cell less than there are columns."""

    caption: str
    label: str = ""
    columns: list[str]
    sections: list[OverviewSection]
