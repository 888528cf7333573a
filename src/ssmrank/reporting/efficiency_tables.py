"""Table 5 (inference speed) and Table 6 (complexity), from the benchmark's CSV and the paper's numbers."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape as html_escape
from pathlib import Path

import yaml
from pydantic import Field

from ssmrank.config.reading import check
from ssmrank.config.section import Section
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.reporting.html import page
from ssmrank.reporting.latex import escape

DOCUMENTS = 100
"""Documents of a query."""

_NEEDED = ("benchmark", "model", "implementation", "precision", "batch", "device", "pairs", "max_length", "seconds")


class PaperSpeed(Section):
    """A row of the paper's Table 5."""

    model: str
    length: int
    queries_per_second: float


class Complexity(Section):
    """A row of Table 6: costs in terms of L, the tokens of a sequence, and N, the size of a state."""

    name: str
    models: list[str]
    training: str
    inference: str
    state: str
    memory: str
    matmul: bool
    exponent: int = Field(description="of L in a forward pass")


class PaperEfficiency(Section):
    """What is known of the paper's Tables 5 and 6."""

    device: str
    speeds: list[PaperSpeed]
    complexities: list[Complexity]


@dataclass(frozen=True)
class Timing:
    """A line of the benchmark: `pairs` pairs of at most `length` tokens took `seconds`; None: out of memory."""

    model: str
    batch: str
    device: str
    precision: str
    pairs: int
    length: int
    seconds: float | None


@dataclass(frozen=True)
class PlainTable:
    """Header and rows of text, and a caption."""

    header: list[str]
    rows: list[list[str]]
    caption: str
    label: str

    def to_csv(self) -> str:
        """Header and rows (RFC 4180 quoting, lines end with \\n)."""
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([self.header, *self.rows])
        return stream.getvalue()

    def to_markdown(self) -> str:
        """The caption, then the table."""
        lines = [self.header, ["---", *["--:"] * (len(self.header) - 1)], *self.rows]
        first, rule, *rows = (f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([self.caption, "", first, rule, *rows]) + "\n"

    def to_html(self) -> str:
        """A complete HTML page."""
        head, *rows = (
            "".join(f"<{tag}>{html_escape(text)}</{tag}>" for text in line)
            for tag, line in [("th", self.header), *(("td", row) for row in self.rows)]
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        caption = f'<p class="caption">{html_escape(self.caption)}</p>'
        return page(self.label, [caption, f'<div class="wide">{table}</div>'])

    def to_latex(self) -> str:
        """A `table` environment that needs only the package booktabs."""
        lines = ["% Needs \\usepackage{booktabs}.", "\\begin{table}[t]", "  \\centering", "  \\small"]
        lines += [f"  \\begin{{tabular}}{{@{{}}l{'r' * (len(self.header) - 1)}@{{}}}}", "    \\toprule"]
        lines += [f"    {' & '.join(map(_latex, self.header))} \\\\", "    \\midrule"]
        lines += [f"    {' & '.join(map(_latex, row))} \\\\" for row in self.rows]
        lines += ["    \\bottomrule", "  \\end{tabular}", f"  \\caption{{{_latex(self.caption)}}}"]
        return "\n".join([*lines, f"  \\label{{{self.label}}}", "\\end{table}"]) + "\n"

    def write(self, paths: Sequence[Path]) -> None:
        """Writes files in the format of their suffix. Raises UserError, before it writes any, for an unknown suffix."""
        for path in paths:
            if path.suffix not in FORMS:
                raise UserError(f"--output {path}: the name must end in one of {', '.join(FORMS)}")
        for path in paths:
            with atomic_file(path) as stream:
                stream.write(FORMS[path.suffix](self))


FORMS = {
    ".tex": PlainTable.to_latex,
    ".csv": PlainTable.to_csv,
    ".md": PlainTable.to_markdown,
    ".html": PlainTable.to_html,
}
"""The method that writes a table in the format of a suffix."""


@cache
def paper_efficiency() -> PaperEfficiency:
    """Reads `paper_efficiency.yaml`."""
    path = Path(__file__).with_name("paper_efficiency.yaml")
    return check(PaperEfficiency, yaml.safe_load(path.read_text(encoding="utf-8")), path.name)


def read_timings(path: Path, suite: str) -> list[Timing]:
    """Reads ssmrank's lines of a suite. Raises UserError where there are none, or a column is missing or malformed."""
    advice = f"make it with benchmarks/reranking.py --suite {suite}"
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    missing = [name for name in _NEEDED if rows and name not in rows[0]]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing; {advice}")
    timings = []
    for line, row in enumerate(rows, start=2):
        if row["benchmark"] != suite or row["implementation"] != "ssmrank":
            continue
        try:
            seconds = float(row["seconds"]) if row["seconds"] else None
            numbers = int(row["pairs"]), int(row["max_length"])
        except ValueError as error:
            raise UserError(f"{path}:{line}: pairs, max_length or seconds is not a number; {advice}") from error
        timings.append(Timing(row["model"], row["batch"], row["device"], row["precision"], *numbers, seconds))
    if not timings:
        raise UserError(f"{path}: has no line of the suite {suite}; {advice}")
    return timings


def speed_table(timings: list[Timing]) -> PlainTable:
    """Table 5: queries per second of each model and length, ours and the paper's."""
    paper = {(speed.model.lower(), speed.length): speed.queries_per_second for speed in paper_efficiency().speeds}
    ours = {(timing.model.lower(), timing.length): timing for timing in timings}
    names = {timing.model.lower(): timing.model for timing in timings}
    names |= {speed.model.lower(): speed.model for speed in paper_efficiency().speeds}
    keys = [*ours, *(key for key in paper if key not in ours)]
    rows = []
    for model, length in keys:
        timing = ours.get((model, length))
        own = ""
        if timing is not None:
            own = "OOM" if timing.seconds is None else _two_digits(timing.pairs / DOCUMENTS / timing.seconds)
        theirs = paper.get((model, length))
        rows.append([names[model], str(length), own, "" if theirs is None else f"{theirs:.2f}"])
    first = timings[0]
    caption = (
        f"Inference speed in queries per second, {DOCUMENTS} documents a query. Ours: {first.device}, "
        f"{first.precision}, batches of {first.batch}, random weights. The paper: {paper_efficiency().device}, half "
        "precision, batch size 32. Blank: not measured, or not in the paper."
    )
    return PlainTable(["Model", "Length", "Ours", "Paper"], rows, caption, "tab:inference-speed")


def complexity_table(timings: list[Timing]) -> PlainTable:
    """Table 6: costs in theory, and the measured exponent of the length in a sequence's time."""
    exponents = measured_exponents(timings)
    rows = []
    for kind in paper_efficiency().complexities:
        measured = [
            f"{value:.2f} ({model})"
            for model, value in exponents.items()
            if any(model.startswith(beginning) for beginning in kind.models)
        ]
        costs = [kind.training, kind.inference, kind.state, kind.memory, "yes" if kind.matmul else "no"]
        rows.append([kind.name, *costs, str(kind.exponent), ", ".join(measured)])
    lengths = sorted({timing.length for timing in timings})
    caption = (
        "Complexity for sequences of L tokens and states of size N (Dao & Gu 2024, section 6). Measured: the exponent "
        f"of L in the time of one sequence's forward pass from {lengths[0]} to {lengths[-1]} tokens, a whole model "
        f"with its projections, which are linear in L; {timings[0].device}, {timings[0].precision}."
    )
    header = ["", "Training FLOPs", "Inference FLOPs", "State", "Memory", "Matmul", "Exponent of L", "Measured"]
    return PlainTable(header, rows, caption, "tab:complexity")


def measured_exponents(timings: list[Timing]) -> dict[str, float]:
    """For each model with at least two lengths, the least-squares slope of log seconds per sequence over log length."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for timing in timings:
        if timing.seconds is not None:
            points[timing.model].append((math.log(timing.length), math.log(timing.seconds / timing.pairs)))
    slopes = {}
    for model, logs in points.items():
        count = len(logs)
        mean_x, mean_y = (sum(column) / count for column in zip(*logs, strict=True))
        spread = sum((x - mean_x) ** 2 for x, _ in logs)
        if spread > 0:
            slopes[model] = sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread
    return slopes


def _two_digits(value: float) -> str:
    """Formats with two decimals, or with two significant digits below 0.1."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _latex(text: str) -> str:
    return escape(text).replace("²", "$^2$")
