"""A figure of per-query differences: on how many queries a system is better than the baseline, and by how much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmrank.config.table_settings import ResultColumn, ResultRow, TableSettings
from ssmrank.errors import UserError
from ssmrank.evaluation.per_query import PerQueryFiles, as_array
from ssmrank.reporting.plotting import plotting, save
from ssmrank.reporting.table import column_title


@dataclass(frozen=True)
class Panel:
    """A system on a test set: each query's value less the baseline's, float64 [queries], greatest first."""

    system: str
    test: str
    differences: NDArray[np.float64]


def panels_of(settings: TableSettings, files: PerQueryFiles) -> tuple[str, list[Panel]]:
    """The baseline's name, and a panel for each other row on each column of a single test set.

    The baseline is the one of the table's significance tests, else the first row that is run. Values are averaged over
    seeds. Rows that did not fit into memory have no panel. Raises UserError where no panel is left.
    """
    rows = [row for section in settings.sections for row in section.rows if row.runs]
    columns = [(number, column) for number, column in enumerate(settings.columns) if len(column.tests) == 1]
    baseline = next((row for row in rows if _name(row) == settings.baseline), rows[0] if rows else None)
    panels = [
        panel
        for row in rows
        if row is not baseline
        for number, column in columns
        if baseline is not None and row.has(number) and baseline.has(number)
        if (panel := _panel(row, baseline, column, files)) is not None
    ]
    if baseline is None or not panels:
        raise UserError(
            "differences: the table has no two rows with per-query values to compare; add rows that are run"
        )
    return _name(baseline), panels


def draw_differences(baseline: str, panels: list[Panel], outputs: list[Path]) -> None:
    """Draws the panels: a row for each system, a column for each test set, with counts of better and worse queries."""
    systems = list(dict.fromkeys(panel.system for panel in panels))
    tests = list(dict.fromkeys(panel.test for panel in panels))
    with plotting() as pyplot:
        figure, axes = pyplot.subplots(
            len(systems),
            len(tests),
            figsize=(1.6 + 2.0 * len(tests), 0.7 + 1.0 * len(systems)),
            layout="constrained",
            squeeze=False,
            sharey=True,
        )
        for row in axes:
            for cell in row:
                cell.set_visible(False)
        for panel in panels:
            place = axes[systems.index(panel.system)][tests.index(panel.test)]
            place.set_visible(True)
            _draw(place, panel.differences)
        for test, place in zip(tests, axes[0], strict=True):
            place.set_title(test, fontsize=9)
        for system, row in zip(systems, axes, strict=True):
            row[0].set_ylabel(system, fontsize=8, rotation=0, ha="right", va="center")
        figure.suptitle(f"less {baseline}, each query by itself", fontsize=9)
        save(figure, outputs)


def _draw(axes: Any, differences: NDArray[np.float64]) -> None:
    places = np.arange(len(differences))
    for chosen, colour in ((differences > 0, "#2a7f9e"), (differences < 0, "#c0562f")):
        axes.fill_between(places, np.where(chosen, differences, 0), step="mid", color=colour, linewidth=0)
    axes.axhline(0, color="#444", linewidth=0.5)
    axes.set_xlim(-0.5, max(len(differences) - 0.5, 0.5))
    axes.set_ylim(-1.05, 1.05)
    axes.set_xticks([])
    axes.tick_params(labelsize=7)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    axes.text(0.98, 0.95, f"{better} better, {worse} worse", transform=axes.transAxes, ha="right", va="top", fontsize=7)
    axes.text(0.02, 0.06, f"mean {differences.mean() * 100:+.1f}", transform=axes.transAxes, fontsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _panel(row: ResultRow, baseline: ResultRow, column: ResultColumn, files: PerQueryFiles) -> Panel | None:
    values = [files.of_seeds(column.tests[0], one.runs, column.metric) for one in (row, baseline)]
    known = [own for own in values if own is not None]
    if len(known) < 2:
        return None
    if known[0].keys() != known[1].keys():
        names = f"{_name(row)} and {_name(baseline)}"
        raise UserError(f"{column.tests[0]}: {names} have different queries; evaluate both again")
    own, other = as_array(known)
    title = column_title(column.label, column.metric)
    return Panel(_name(row), title, np.sort(own - other)[::-1])


def _name(row: ResultRow) -> str:
    return f"{row.label} {row.length}".strip()
