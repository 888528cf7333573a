"""A table of results, independent of its format: rows, cells and marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal

from ssmrank.config.metrics import parse_metric
from ssmrank.config.table_settings import ResultColumn, ResultRow, TableSettings
from ssmrank.config.tables import Tolerance
from ssmrank.errors import UserError
from ssmrank.reporting.comparisons import Compared, letters_of, marks_of
from ssmrank.reporting.costs import Costs
from ssmrank.reporting.paper import Paper, PaperNumber
from ssmrank.reporting.results import Result
from ssmrank.reporting.values import Value, one_decimal, value_of

OOM = "OOM"
BEST_OVERALL = "†"
BEST_OURS = "‡"
SUBSTITUTE = "*"

_FACTS = ("Size", "Prior", "Length")
_NARROW = 6

Verdict = Literal["", "OK", "OKish", "FAIL"]


@dataclass(frozen=True)
class Cell:
    """One column of a row; the text is empty where the value is not known.

    spread: standard deviation over seeds.
    significant: letters of the rows that this row is better than, or an arrow against a baseline.
    verdict: of a difference from the paper.
    """

    text: str = ""
    spread: str = ""
    bold: bool = False
    best_overall: bool = False
    best_ours: bool = False
    substitute: bool = False
    significant: str = ""
    verdict: Verdict = ""

    @property
    def marks(self) -> str:
        """The signs after the number, except those of significance."""
        signs = ((self.best_overall, BEST_OVERALL), (self.best_ours, BEST_OURS), (self.substitute, SUBSTITUTE))
        return "".join(sign for shown, sign in signs if shown)


def names_metric(label: str, metric: str) -> bool:
    """Whether a column's label says its metric itself: `nDCG@10`, `SciFact Recall@100`."""
    return label == metric or label.endswith(f" {metric}")


def column_title(label: str, metric: str) -> str:
    """The name of a column of values on one line: its label, and its metric unless the label says it."""
    return label if names_metric(label, metric) else f"{label} {metric}"


@dataclass(frozen=True)
class Column:
    """A column of values of a test set: ours, the paper's, or the difference of the two."""

    label: str
    metric: str
    origin: Literal["ours", "paper", "difference"] = "ours"

    @property
    def title(self) -> str:
        """The column's name on one line."""
        name = column_title(self.label, self.metric)
        return name if self.origin == "ours" else f"{name} ({self.origin})"


@dataclass(frozen=True)
class Row:
    """A system with a cell for each column.

    letter: the row's letter in marks of significance, where all pairs of a section are compared.
    costs: a text for each of the table's `costs`.
    """

    label: str
    kind: str
    size: str
    prior: str
    length: str
    cells: tuple[Cell, ...]
    letter: str = ""
    costs: tuple[str, ...] = ()

    def fact(self, name: str) -> str:
        """The text of one of the columns Size, Prior and Length."""
        return {"Size": self.size, "Prior": self.prior, "Length": self.length}[name]


@dataclass(frozen=True)
class RowGroup:
    """Rows under a title."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ResultTable:
    """A whole table, as each format prints it. `costs`: titles of the columns of costs."""

    caption: str
    label: str
    columns: tuple[Column, ...]
    sections: tuple[RowGroup, ...]
    sources: tuple[PaperNumber, ...] = field(default=(), compare=False)
    costs: tuple[str, ...] = ()

    @property
    def has_paper(self) -> bool:
        """Whether some columns hold the paper's numbers."""
        return any(column.origin == "paper" for column in self.columns)

    @property
    def is_wide(self) -> bool:
        """Whether it has more columns of values than fit on a page beside four other columns."""
        return len(self.columns) > _NARROW

    @property
    def facts(self) -> tuple[str, ...]:
        """Titles of the columns about the rows that have any text; in a wide table, at least two different texts."""
        return tuple(name for name in _FACTS if len(self._texts(name)) > self.is_wide)

    @property
    def common_facts(self) -> dict[str, str]:
        """The facts without a column of their own whose text is the same in all rows that have one, by title."""
        return {name: text for name in _FACTS if name not in self.facts for text in self._texts(name)}

    def _texts(self, fact: str) -> set[str]:
        return {row.fact(fact) for section in self.sections for row in section.rows} - {""}

    @property
    def cells(self) -> list[Cell]:
        """Every cell, row by row."""
        return [cell for section in self.sections for row in section.rows for cell in row.cells]


def build_table(
    settings: TableSettings,
    results: Mapping[str, Result],
    paper: Paper,
    comparisons: Sequence[Compared] = (),
    costs: Costs | None = None,
) -> ResultTable:
    """Builds the table without its caption; `results` has the keys of `settings.metric_keys()`.

    Best values are chosen among the numbers as printed. Two equal numbers of which one is bold would look like an
    error, and differences that rounding hides are noise at these numbers of queries.

    Raises UserError where a metric is missing or is not the paper's, or a section has more rows than letters.
    """
    _check_metrics(settings, paper)
    numbered = _numbered(settings)
    letters = letters_of(numbered) if settings.alpha is not None and settings.baseline is None else None
    marks = marks_of(comparisons, settings.alpha, letters) if settings.alpha is not None else {}
    every_row = [row for section in settings.sections for row in section.rows]
    values = [_values(row, settings, results) for row in every_row]
    published = [
        [None if row.runs else _published(paper, column, row) for column in settings.columns] for row in every_row
    ]
    best_overall = _best([*values, *published], len(settings.columns))
    ours = [own for row, own in zip(every_row, values, strict=True) if row.pretrained is not None]
    best_ours = _best(ours, len(settings.columns))
    sections: list[RowGroup] = []
    sources: list[PaperNumber] = []
    for section, numbers in zip(settings.sections, numbered, strict=True):
        best_here = _best([values[number] for number in numbers], len(settings.columns))
        rows = []
        for number in numbers:
            row = every_row[number]
            cells = []
            for place, (column, value) in enumerate(zip(settings.columns, values[number], strict=True)):
                mean = value.mean if isinstance(value, Value) else None
                cell = Cell(
                    text=str(mean) if mean is not None else (OOM if row.has(place) else ""),
                    spread=str(value.spread) if value is not None and value.spread is not None else "",
                    bold=mean is not None and mean == best_here[place],
                    best_overall=mean is not None and mean == best_overall[place],
                    best_ours=mean is not None and row.pretrained is not None and mean == best_ours[place],
                    significant=marks.get((number, place), ""),
                )
                cells.append(cell)
                if column.paper is not None:
                    known = paper.number(column.paper, row.label, row.max_length)
                    theirs = published[number][place]
                    best = theirs is not None and theirs.mean == best_overall[place]
                    cells += [_paper_cell(known, best), _difference(cell, known, settings.tolerance)]
                    sources += [known] if known else []
            letter = letters[number] if letters and row.runs else ""
            spent = costs.of(row.runs) if costs else ()
            rows.append(Row(row.label, row.kind, row.size, row.prior, row.length, tuple(cells), letter, spent))
        sections.append(RowGroup(section.title, tuple(rows)))
    columns = []
    for column in settings.columns:
        own = Column(column.label, column.metric)
        columns += [own]
        if column.paper is not None:
            columns += [replace(own, origin="paper"), replace(own, origin="difference")]
    titles = costs.titles if costs else ()
    return ResultTable("", settings.label, tuple(columns), tuple(sections), tuple(sources), titles)


def verdict(difference: Decimal, tolerance: Tolerance) -> Verdict:
    """OK, OKish or FAIL by the absolute difference from the paper's number."""
    if abs(difference) <= Decimal(str(tolerance.ok)):
        return "OK"
    return "OKish" if abs(difference) <= Decimal(str(tolerance.okish)) else "FAIL"


def _check_metrics(settings: TableSettings, paper: Paper) -> None:
    for column in settings.columns:
        if column.paper is not None and parse_metric(paper.column(column.paper).metric) != parse_metric(column.metric):
            raise UserError(
                f"column {column.label!r}: its metric is {column.metric}, but the paper's {column.paper} is "
                f"{paper.column(column.paper).metric}; change one of the keys metric and paper"
            )


def _numbered(settings: TableSettings) -> list[list[int]]:
    """Row numbers of each section; rows are numbered from 0 through the whole table."""
    numbered, first = [], 0
    for section in settings.sections:
        numbered.append(list(range(first, first + len(section.rows))))
        first += len(section.rows)
    return numbered


def _values(row: ResultRow, settings: TableSettings, results: Mapping[str, Result]) -> list[Value | None]:
    columns = enumerate(settings.columns)
    return [value_of(row, column, results) if row.has(number) else None for number, column in columns]


def _best(rows: Iterable[list[Value | None]], columns: int) -> list[Decimal | None]:
    """The greatest number of each column; None where no row has one."""
    found: list[list[Decimal]] = [[] for _ in range(columns)]
    for row in rows:
        for numbers, value in zip(found, row, strict=True):
            numbers += [] if value is None else [value.mean]
    return [max(numbers, default=None) for numbers in found]


def _published(paper: Paper, column: ResultColumn, row: ResultRow) -> Value | None:
    """The published number of a row that is not run here; it competes for the best overall."""
    known = None if column.paper is None else paper.number(column.paper, row.label, row.max_length)
    return None if known is None or known.value == OOM else Value(one_decimal(float(known.value)))


def _paper_cell(known: PaperNumber | None, best_overall: bool) -> Cell:
    if known is None:
        return Cell()
    text = known.value if known.value == OOM else str(one_decimal(float(known.value)))
    return Cell(text=str(text), substitute=known.substitute, best_overall=best_overall)


def _difference(ours: Cell, known: PaperNumber | None, tolerance: Tolerance) -> Cell:
    """The difference of the numbers as printed. OOM on both sides is a reproduction; OOM on ours alone is a failure."""
    if known is None or not ours.text:
        return Cell()
    if ours.text == OOM:
        return Cell(verdict="OK" if known.value == OOM else "FAIL")
    if known.value == OOM:
        return Cell()
    difference = Decimal(ours.text) - one_decimal(float(known.value))
    return Cell(text=f"{difference:+}", verdict=verdict(difference, tolerance))
