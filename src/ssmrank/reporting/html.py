"""A table of results as an HTML page, followed by the origin of each number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import NamedTuple

from ssmrank.config.table_settings import TableSettings
from ssmrank.reporting.results import Result
from ssmrank.reporting.table import Cell, Column, ResultTable, Row, column_title

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .25rem .7rem; text-align: left; white-space: nowrap; }
thead th { border-bottom: 1px solid #888; font-weight: 600; }
thead tr:first-child th { border-top: 2px solid #1b1f24; }
thead th[colspan] { text-align: center; }
tbody:last-child tr:last-child td { border-bottom: 2px solid #1b1f24; }
tr.section th { font-style: italic; font-weight: 400; padding-top: .7rem; border-top: 1px solid #bbb; }
td.number { text-align: right; }
tbody tr:not(.section):hover { background: #f2f5f9; }
sup { line-height: 0; font-size: .75em; }
.spread, .paper { color: #59636e; }
.spread { font-size: .85em; }
.verdict { font-size: .72em; border-radius: .3em; padding: .1em .4em; margin-left: .35em; }
.OK { background: #d7f0dc; color: #14532d; } .OKish { background: #fdf0c8; color: #6b4a00; }
.FAIL { background: #fbdcdc; color: #7f1d1d; }
caption, p.caption { caption-side: top; text-align: left; max-width: 60rem; margin: 0 0 1rem; color: #333b44; }
details { margin-top: 1.5rem; } details table { font-size: .85em; } summary { cursor: pointer; }
""".strip()


class Origin(NamedTuple):
    """Where a number of the table comes from. `mean` is not rounded; None where memory ran out."""

    system: str
    column: str
    mean: float | None
    queries: int
    metrics: str
    run: str


def origins_of(settings: TableSettings, results: Mapping[str, Result]) -> list[Origin]:
    """The origin of each number, one for each row, column, seed and test set."""
    found = []
    for section in settings.sections:
        for row in section.rows:
            for number, column in enumerate(settings.columns):
                for run in row.runs if row.has(number) else []:
                    for test in column.tests:
                        result = results[f"{test}/{run}"]
                        mean = result.mean.get(column.metric)
                        name = column_title(column.label, column.metric)
                        system = " ".join(filter(None, [row.label, row.length]))
                        origin = Origin(system, name, mean, result.queries, result.path.as_posix(), result.run)
                        found.append(origin)
    return found


def page(title: str, body: Iterable[str]) -> str:
    """A complete HTML page that loads no other file."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>\n{STYLE}\n</style>'
    return "\n".join([f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>', *body, "</body></html>"]) + "\n"


def to_html(table: ResultTable, origins: Iterable[Origin], title: str) -> str:
    """The page of a table; cells have the same marks as in LaTeX."""
    return page(title, [f'<p class="caption">{escape(table.caption)}</p>', *_table(table), *_origins(origins)])


def _table(table: ResultTable) -> Iterable[str]:
    yield '<div class="wide"><table><thead>'
    yield from _header(table)
    yield "</thead>"
    width = 1 + len(table.facts) + len(table.costs) + len(table.columns)
    for section in table.sections:
        yield f'<tbody><tr class="section"><th colspan="{width}">{escape(section.title)}</th></tr>'
        yield from (_row(row, table) for row in section.rows)
        yield "</tbody>"
    yield "</table></div>"


def _header(table: ResultTable) -> Iterable[str]:
    groups: list[list[Column]] = []
    for column in table.columns:
        if column.origin == "ours":
            groups.append([column])
        else:
            groups[-1].append(column)
    fixed = "".join(f'<th rowspan="2">{name}</th>' for name in ("Model", *table.facts, *map(escape, table.costs)))
    labels = []
    for group in groups:
        name = column_title(group[0].label, group[0].metric)
        span = f'colspan="{len(group)}"' if len(group) > 1 else 'rowspan="2"'
        labels.append(f"<th {span}>{escape(name)}</th>")
    yield f"<tr>{fixed}{''.join(labels)}</tr>"
    names = {"ours": "ours", "paper": "paper", "difference": "Δ"}
    below = [f"<th>{names[column.origin]}</th>" for group in groups if len(group) > 1 for column in group]
    yield f"<tr>{''.join(below)}</tr>"


def _row(row: Row, table: ResultTable) -> str:
    label = f"<sup>{row.letter}</sup>" if row.letter else ""
    label += escape(row.label) + (f"<sup>{row.kind}</sup>" if row.kind else "")
    fixed = "".join(f"<td>{escape(text) or '–'}</td>" for text in map(row.fact, table.facts))
    fixed += "".join(f'<td class="number">{escape(text) or "–"}</td>' for text in row.costs)
    cells = "".join(_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True))
    return f"<tr><td>{label}</td>{fixed}{cells}</tr>"


def _cell(cell: Cell, column: Column) -> str:
    text = escape(cell.text.replace("-", "−"))
    text = f"<b>{text}</b>" if cell.bold else text
    text += f'<span class="spread"> ± {cell.spread}</span>' if cell.spread else ""
    marks = escape(cell.significant + cell.marks)
    text += f"<sup>{marks}</sup>" if marks else ""
    text += f'<span class="verdict {cell.verdict}">{cell.verdict}</span>' if cell.verdict else ""
    return f'<td class="number{" paper" if column.origin == "paper" else ""}">{text}</td>'


def _origins(origins: Iterable[Origin]) -> Iterable[str]:
    yield "<details><summary>Where each number comes from</summary>"
    yield '<div class="wide"><table><thead><tr>'
    yield "".join(f"<th>{name}</th>" for name in ("System", "Column", "Mean", "Queries", "Metrics", "Run"))
    yield "</tr></thead><tbody>"
    for origin in origins:
        mean = "OOM" if origin.mean is None else f"{origin.mean:.6f}"
        texts = [origin.system, origin.column, mean, f"{origin.queries:,}", origin.metrics, origin.run]
        yield f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in texts)}</tr>"
    yield "</tbody></table></div></details>"
