"""A table as Markdown, for a look without LaTeX."""

from __future__ import annotations

import re

from ssmrank.reporting.table import Cell, ResultTable


def escape(text: str) -> str:
    """Escapes plain text for Markdown: no markup, no cell separator, one line."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", " ".join(text.split()))


def to_markdown(table: ResultTable) -> str:
    """The caption, then a table whose section titles are rows of their own."""
    numbers = [*map(escape, table.costs), *(escape(column.title) for column in table.columns)]
    heads = ["Model", *table.facts, *numbers]
    rule = ["---"] * (len(heads) - len(numbers)) + ["--:"] * len(numbers)
    lines = [escape(table.caption), "", _line(heads), _line(rule)]
    for section in table.sections:
        lines.append(_line([f"*{escape(section.title)}*"] + [""] * (len(heads) - 1)))
        for row in section.rows:
            label = f"<sup>{row.letter}</sup>" if row.letter else ""
            label += escape(row.label) + (f"<sup>{row.kind}</sup>" if row.kind else "")
            fixed = [escape(text) or "–" for text in (*map(row.fact, table.facts), *row.costs)]
            lines.append(_line([label, *fixed, *map(_cell, row.cells)]))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.bold else cell.text
    text += f" ± {cell.spread}" if cell.spread else ""
    text += f"<sup>{cell.significant}</sup>" if cell.significant else ""
    return (text + escape(cell.marks) + f" {cell.verdict}" if cell.verdict else text + escape(cell.marks)).strip()
