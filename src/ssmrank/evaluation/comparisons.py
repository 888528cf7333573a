"""Paired tests between the rows of a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ssmrank.config.table_settings import ComparedColumn, ComparedRow, Comparison, SignificanceSettings
from ssmrank.config.trainings import SEED_SIGN
from ssmrank.evaluation.per_query import PerQueryFiles, as_array, check_same_queries
from ssmrank.evaluation.significance import Values, holm, mean_difference, randomization_test, t_test
from ssmrank.io.atomic import atomic_file

FIELDS = (
    "family column row other test metric system baseline queries difference "
    "p_randomization p_t holm_randomization holm_t"
).split()


def compare(settings: SignificanceSettings, files: PerQueryFiles) -> list[dict[str, object]]:
    """The lines of the comparisons' file, in the order of columns, families and comparisons.

    Comparisons with a row that did not fit in memory are left out. Raises UserError where rows have other queries.
    """
    lines = []
    for number, column in enumerate(settings.columns):
        rows = [row for row in _compared(settings) if settings.rows[row].has(number)]
        values = {row: _values(column, settings.rows[row], files) for row in rows}
        _check(settings, column, values, files)
        known = {row for row, own in values.items() if own}
        families = [[pair for pair in family if {pair.row, pair.other} <= known] for family in settings.families]
        pairs = [pair for family in families for pair in family]
        if not pairs:
            continue
        differences = [_differences(values, pairs, test) for test in range(len(column.tests))]
        means = mean_difference(differences)
        p_randomization = randomization_test(differences, settings.permutations, settings.seed)
        p_t = t_test(differences)
        first = 0
        for family_number, family in enumerate(families):
            here = slice(first, first := first + len(family))
            adjusted = zip(holm(p_randomization[here]), holm(p_t[here]), strict=True)
            for pair, mean, own, (by_randomization, by_t) in zip(
                family, means[here], zip(p_randomization[here], p_t[here], strict=True), adjusted, strict=True
            ):
                facts = [family_number, number, pair.row, pair.other, "+".join(column.tests), column.metric]
                facts += [_name(settings.rows[pair.row]), _name(settings.rows[pair.other])]
                facts += [sum(block.shape[1] for block in differences), f"{mean:.6f}"]
                facts += [f"{p:.6g}" for p in (*own, by_randomization, by_t)]
                lines.append(dict(zip(FIELDS, facts, strict=True)))
    return lines


def write_comparisons(path: Path, lines: Iterable[Mapping[str, object]]) -> None:
    """Writes the lines of `compare` as CSV with a header."""
    with atomic_file(path) as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


_OfTests = list[dict[str, float]]
"""For each test of a column, the value of each query."""


def _compared(settings: SignificanceSettings) -> list[int]:
    return sorted({row for family in settings.families for pair in family for row in (pair.row, pair.other)})


def _values(column: ComparedColumn, row: ComparedRow, files: PerQueryFiles) -> _OfTests | None:
    found = [files.of_seeds(test, row.runs, column.metric) for test in column.tests]
    return None if any(values is None for values in found) else [values for values in found if values is not None]


def _check(
    settings: SignificanceSettings, column: ComparedColumn, values: dict[int, _OfTests | None], files: PerQueryFiles
) -> None:
    known = [row for row, own in values.items() if own]
    for place, test in enumerate(column.tests):
        for row in known[1:]:
            one, other = (files.folder / f"{test}/{settings.rows[number].runs[0]}.json" for number in (known[0], row))
            check_same_queries(one, values[known[0]][place], other, values[row][place])  # type: ignore[index]


def _differences(values: dict[int, _OfTests | None], pairs: list[Comparison], test: int) -> Values:
    rows = {row: own[test] for row, own in values.items() if own}
    table = as_array(list(rows.values()))
    places = {row: place for place, row in enumerate(rows)}
    chosen = np.array([[places[pair.row], places[pair.other]] for pair in pairs])
    return table[chosen[:, 0]] - table[chosen[:, 1]]


def _name(row: ComparedRow) -> str:
    return re.sub(rf"{SEED_SIGN}\d+", "", row.runs[0])
