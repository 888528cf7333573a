"""A table as LaTeX. It needs booktabs, and graphicx where the table is wide."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ssmrank.reporting.comparisons import BETTER, WORSE
from ssmrank.reporting.table import (
    BEST_OURS,
    BEST_OVERALL,
    SUBSTITUTE,
    Cell,
    Column,
    ResultTable,
    Row,
    names_metric,
)

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "“": "``",
    "”": "''",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    BETTER: r"$\uparrow$",
    WORSE: r"$\downarrow$",
    BEST_OVERALL: r"$\dagger$",
    BEST_OURS: r"$\ddagger$",
    SUBSTITUTE: r"$\ast$",
}
_MARKS = {
    BEST_OVERALL: r"\dagger",
    BEST_OURS: r"\ddagger",
    SUBSTITUTE: r"\ast",
    BETTER: r"\uparrow",
    WORSE: r"\downarrow",
}


def escape(text: str) -> str:
    """Escapes plain text for LaTeX: no command, no ligature, one line."""
    escaped = "".join(_ESCAPES.get(sign, sign) for sign in " ".join(text.split()))
    # Two hyphens would become a dash. The ligatures ?` and !` cannot occur, since the backtick is escaped.
    return re.sub("-(?=-)", "-{}", escaped)


def to_latex(table: ResultTable) -> str:
    """A `table` environment for \\input, which needs the package booktabs; a wide one is scaled with graphicx."""
    fixed = ["Model", *table.facts, *map(escape, table.costs)]
    columns = len(fixed) + len(table.columns)
    packages = "booktabs,graphicx" if table.is_wide else "booktabs"
    lines = [f"% Needs \\usepackage{{{packages}}}.", "\\begin{table}[t]", "  \\centering", "  \\small"]
    # Marks take no width, so that the numbers stay aligned; the space after the last column is for them. Letters do
    # take width, because a cell may have many.
    values = ("l" if _has_letters(table) else "r") * len(table.columns)
    about = "l" * (1 + len(table.facts)) + "r" * len(table.costs)
    alignment = f"{about}{values}@{{\\hspace{{1.2em}}}}"
    lines += ["  \\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"] if table.is_wide else []
    lines += [f"  \\begin{{tabular}}{{@{{}}{alignment}}}", "    \\toprule", *_header(table, fixed)]
    for section in table.sections:
        lines += [
            "    \\midrule",
            f"    \\multicolumn{{{columns}}}{{@{{}}l}}{{\\textit{{{escape(section.title)}}}}} \\\\",
        ]
        lines += [f"    {_row(row, table)} \\\\" for row in section.rows]
    end = "  \\end{tabular}}" if table.is_wide else "  \\end{tabular}"
    lines += ["    \\bottomrule", end, f"  \\caption{{{escape(table.caption)}}}"]
    lines += [f"  \\label{{{table.label}}}"] if table.label else []
    lines += ["\\end{table}"]
    return "\n".join(lines) + "\n"


def _header(table: ResultTable, fixed: Sequence[str]) -> list[str]:
    """Up to three header lines: test sets; metrics, if some are not the label itself; ours, paper's and difference."""
    groups: list[list[Column]] = []
    for column in table.columns:
        if column.origin != "ours":
            groups[-1].append(column)
        else:
            groups.append([column])
    labels = [_span(len(group), escape(group[0].label)) for group in groups]
    metrics = [
        _span(len(group), "" if names_metric(group[0].label, group[0].metric) else escape(group[0].metric))
        for group in groups
    ]
    names = {"ours": "ours", "paper": "paper", "difference": r"$\Delta$"}
    origins = ["" if len(group) == 1 else " & ".join(names[column.origin] for column in group) for group in groups]
    empty = [""] * len(fixed)
    lines = [[*fixed, *labels]]
    if any(column.metric != column.label for column in table.columns):
        lines.append(empty + metrics)
    text = [f"    {' & '.join(line).lstrip()} \\\\" for line in lines]
    if table.has_paper:
        text.append(f"    {' '.join(_rules(groups, len(fixed) + 1))}")
        text.append(f"    {' & '.join(empty + origins).lstrip()} \\\\")
    return text


def _rules(groups: list[list[Column]], place: int) -> list[str]:
    """Rules over groups of columns; `place` is the number of the first column."""
    rules = []
    for group in groups:
        if len(group) > 1:
            rules.append(f"\\cmidrule(lr){{{place}-{place + len(group) - 1}}}")
        place += len(group)
    return rules


def _span(width: int, text: str) -> str:
    return text if width == 1 else f"\\multicolumn{{{width}}}{{c}}{{{text}}}"


def _has_letters(table: ResultTable) -> bool:
    return any(row.letter for section in table.sections for row in section.rows)


def _row(row: Row, table: ResultTable) -> str:
    label = escape(row.label) + (f"$^{{\\mathrm{{{row.kind}}}}}$" if row.kind else "")
    label = (f"$^{{{row.letter}}}$" if row.letter else "") + label
    fixed = [escape(text) or "--" for text in (*map(row.fact, table.facts), *row.costs)]
    return " & ".join([label, *fixed, *(_cell(cell, _has_letters(table)) for cell in row.cells)])


def _cell(cell: Cell, letters: bool) -> str:
    text = f"\\textbf{{{cell.text}}}" if cell.bold else cell.text
    # In math mode, the sign is a minus and not a hyphen.
    text = f"${text}$" if text.startswith(("+", "-")) else text
    text += f"{{\\scriptsize$\\pm${cell.spread}}}" if cell.spread else ""
    text += ("\\," if cell.text else "") + f"{{\\tiny {cell.verdict}}}" if cell.verdict else ""
    marks = "".join(_MARKS.get(sign, sign) for sign in cell.significant + cell.marks)
    if not marks:
        return text
    return f"{text}$^{{{marks}}}$" if letters else f"{text}\\rlap{{$^{{{marks}}}$}}"
