"""CSV of a table: one line a row, numbers as printed, without marks."""

from __future__ import annotations

import csv
import io

from ssmrank.reporting.table import ResultTable


def to_csv(table: ResultTable) -> str:
    """Header and rows (RFC 4180 quoting, lines end with \\n); an unknown number is an empty field."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["section", "model", "kind", "size", "prior", "length", *(c.title for c in table.columns)])
    for section in table.sections:
        for row in section.rows:
            values = [cell.text for cell in row.cells]
            writer.writerow([section.title, row.label, row.kind, row.size, row.prior, row.length, *values])
    return stream.getvalue()
