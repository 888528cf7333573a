"""A table of results before it is LaTeX, CSV or Markdown: rows, cells, marks and the caption's sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from ssmrank.config import ResultRow, TableSettings
from ssmrank.errors import UserError
from ssmrank.reporting.paper import Paper, PaperNumber
from ssmrank.reporting.results import Result

OOM = "OOM"
BEST_OVERALL = "†"
BEST_OURS = "‡"
SUBSTITUTE = "*"

KINDS = {"E": "encoder-only", "ED": "encoder-decoder", "D": "decoder-only"}


@dataclass(frozen=True)
class Cell:
    """What stands in one column of a row; an empty text where the value is not known."""

    text: str = ""
    bold: bool = False
    best_overall: bool = False
    best_ours: bool = False
    substitute: bool = False

    @property
    def marks(self) -> str:
        """The signs after the number."""
        signs = ((self.best_overall, BEST_OVERALL), (self.best_ours, BEST_OURS), (self.substitute, SUBSTITUTE))
        return "".join(sign for shown, sign in signs if shown)


@dataclass(frozen=True)
class Column:
    """A column of values: ours, or the paper's for the same test set."""

    label: str
    metric: str
    paper: bool = False

    @property
    def title(self) -> str:
        """One line that names the column."""
        name = self.label if self.metric == self.label else f"{self.label} {self.metric}"
        return f"{name} (paper)" if self.paper else name


@dataclass(frozen=True)
class Row:
    """A system with one cell for each column."""

    label: str
    kind: str
    size: str
    prior: str
    length: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Section:
    """Rows under a title."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ResultTable:
    """All that a rendering prints."""

    caption: str
    label: str
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]

    @property
    def has_paper(self) -> bool:
        """Whether some columns hold the paper's numbers."""
        return any(column.paper for column in self.columns)


def percent(value: float) -> Decimal:
    """A value between 0 and 1 as printed: times 100, one decimal, halves away from zero.

    Computed on the shortest decimal that reads back as `value`, so that 0.4745 is printed 47.5 and not, as the binary
    number would have it, 47.4.
    """
    return (Decimal(repr(value)) * 100).quantize(Decimal("0.1"), ROUND_HALF_UP)


def build_table(settings: TableSettings, results: Mapping[str, Result], paper: Paper) -> ResultTable:
    """The table; `results` by the keys of `settings.metric_keys()`.

    Best values are found among the numbers as printed: two equal numbers of which only one is bold would look like
    an error, and what rounding hides is noise at these numbers of queries.
    """
    for column in settings.columns:
        if column.paper is not None and paper.column(column.paper).metric != column.metric:
            raise UserError(
                f"column {column.label!r}: its metric is {column.metric}, but the paper's {column.paper} is "
                f"{paper.column(column.paper).metric}; change one of the keys metric and paper"
            )
    values = [[_values(row, settings, results) for row in section.rows] for section in settings.sections]
    every_row = [row for section in settings.sections for row in section.rows]
    every_value = [own for block in values for own in block]
    best_overall = _best(every_value)
    best_ours = _best(own for row, own in zip(every_row, every_value, strict=True) if row.pretrained is not None) or [
        None
    ] * len(settings.columns)
    sections: list[Section] = []
    sources: list[PaperNumber] = []
    for section, block in zip(settings.sections, values, strict=True):
        best_here = _best(block)
        rows = []
        for row, own in zip(section.rows, block, strict=True):
            cells = []
            for place, (column, value) in enumerate(zip(settings.columns, own, strict=True)):
                cells.append(
                    Cell(
                        text=OOM if value is None else str(value),
                        bold=value is not None and value == best_here[place],
                        best_overall=value is not None and value == best_overall[place],
                        best_ours=value is not None and row.pretrained is not None and value == best_ours[place],
                    )
                )
                if column.paper is not None:
                    known = paper.number(column.paper, row.label, row.max_length)
                    cells.append(_paper_cell(known))
                    sources += [known] if known else []
            rows.append(Row(row.label, row.kind, row.size, row.prior, row.length, tuple(cells)))
        sections.append(Section(section.title, tuple(rows)))
    columns = []
    for column in settings.columns:
        ours = Column(column.label, column.metric)
        columns += [ours] if column.paper is None else [ours, replace(ours, paper=True)]
    table = ResultTable("", settings.label, tuple(columns), tuple(sections))
    return replace(table, caption=" ".join(_sentences(settings, results, table, sources)))


def _values(row: ResultRow, settings: TableSettings, results: Mapping[str, Result]) -> list[Decimal | None]:
    return [_value(results[key], column.metric) for key, column in zip(row.metrics, settings.columns, strict=True)]


def _value(result: Result, metric: str) -> Decimal | None:
    """The number as printed; None where the model did not fit in memory."""
    if result.status == "oom":
        return None
    if metric not in result.mean:
        raise UserError(
            f"{result.path}: holds no {metric} (it has {', '.join(result.mean) or 'no metric'}); "
            "add it to evaluation.metrics in params.yaml and evaluate again"
        )
    return percent(result.mean[metric])


def _best(rows: Iterable[list[Decimal | None]]) -> list[Decimal | None]:
    """For each column the greatest number, None where no row has one."""
    return [max((value for value in column if value is not None), default=None) for column in zip(*rows, strict=True)]


def _paper_cell(known: PaperNumber | None) -> Cell:
    if known is None:
        return Cell()
    text = known.value if known.value == OOM else str(Decimal(str(known.value)).quantize(Decimal("0.1"), ROUND_HALF_UP))
    return Cell(text=str(text), substitute=known.substitute)


def _sentences(
    settings: TableSettings, results: Mapping[str, Result], table: ResultTable, sources: list[PaperNumber]
) -> Iterable[str]:
    rows = [row for section in settings.sections for row in section.rows]
    cells = [cell for section in table.sections for row in section.rows for cell in row.cells]
    caption = settings.caption.strip()
    yield caption if caption.endswith((".", "!", "?")) else f"{caption}."
    yield f"Test collection{'s' if len(settings.collections) > 1 else ''}: {_list(settings.collections)}."
    yield f"Means over {_queries(settings, results)}, times 100, rounded to one decimal."
    yield (
        f"The best of each section is bold; {BEST_OVERALL} marks the best overall and {BEST_OURS} the best of our "
        "trained models; values equal after rounding share a mark."
    )
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in rows)]
    if kinds:
        yield f"Superscript{'s' if len(kinds) > 1 else ''}: {_list([f'{kind} {KINDS[kind]}' for kind in kinds])}."
    trained = {row.label: row.pretrained for row in rows if row.pretrained is not None}
    pretrained = [label for label, is_pretrained in trained.items() if is_pretrained]
    random = [label for label, is_pretrained in trained.items() if not is_pretrained]
    if pretrained and random:
        yield f"Pretrained before fine-tuning: {_list(pretrained)}."
        yield (
            f"{_list(random)} start{'s' if len(random) == 1 else ''} from random weights, "
            "so their order is not a finding."
        )
    elif random:
        yield "All rerankers start from random weights, so their order is not a finding."
    elif pretrained:
        yield "All rerankers were pretrained before fine-tuning."
    if any(cell.text == OOM for cell in cells):
        yield f"{OOM}: did not fit in memory."
    if table.has_paper:
        yield "Columns “paper” give the published numbers as far as they are known to us; others are blank."
    substitutes = list(dict.fromkeys(number.source for number in sources if number.substitute))
    if substitutes:
        yield f"{SUBSTITUTE} from another source than the paper: {'; '.join(substitutes)}."


def _queries(settings: TableSettings, results: Mapping[str, Result]) -> str:
    """How many queries each column's means are over; raises UserError where two rows of a column disagree."""
    rows = [row for section in settings.sections for row in section.rows]
    counts: dict[str, int] = {}
    for place, column in enumerate(settings.columns):
        first = results[rows[0].metrics[place]]
        for row in rows:
            result = results[row.metrics[place]]
            if result.queries != first.queries:
                raise UserError(
                    f"{result.path}: {result.queries} queries, but {first.path} has {first.queries}; "
                    "evaluate both runs again with the same qrels"
                )
        counts[column.label] = first.queries
    if len(set(counts.values())) == 1:
        count = next(iter(counts.values()))
        return f"{count:,} quer{'y' if count == 1 else 'ies'}"
    return _list([f"{count:,} queries ({test})" for test, count in counts.items()])


def _list(words: Iterable[str]) -> str:
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
