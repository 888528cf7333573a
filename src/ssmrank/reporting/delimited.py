"""A table as CSV: one line for each row, numbers as printed, without marks."""

from __future__ import annotations

import csv
import io

from ssmrank.reporting.table import ResultTable


def to_csv(table: ResultTable) -> str:
    """Header and rows (RFC 4180 quoting, lines end with \\n); an unknown number is an empty field.

    A column of ours is followed by its standard deviations and its marks of significance, a difference from the paper
    by its verdict, each where the table has any.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    parts = [_parts(table, place) for place in range(len(table.columns))]
    titles = [
        column.title + (f" ({name})" if name else "")
        for column, names in zip(table.columns, parts, strict=True)
        for name in names
    ]
    letters = any(row.letter for section in table.sections for row in section.rows)
    fixed = ["section", *(["letter"] if letters else []), "model", "kind", "size", "prior", "length"]
    writer.writerow([*fixed, *table.costs, *titles])
    for section in table.sections:
        for row in section.rows:
            values = [getattr(c, field) for c, own in zip(row.cells, parts, strict=True) for field in own.values()]
            about = [*([row.letter] if letters else []), row.label, row.kind, row.size, row.prior, row.length]
            writer.writerow([section.title, *about, *row.costs, *values])
    return stream.getvalue()


def _parts(table: ResultTable, place: int) -> dict[str, str]:
    """The CSV columns of a table's column: what the header adds to its title, and the attribute of its cells."""
    cells = [row.cells[place] for section in table.sections for row in section.rows]
    optional = {"standard deviation": "spread", "significance": "significant", "verdict": "verdict"}
    shown = {name: field for name, field in optional.items() if any(getattr(cell, field) for cell in cells)}
    return {"": "text", **shown}
