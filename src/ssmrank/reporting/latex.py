"""LaTeX of a table, with booktabs and nothing else beyond the LaTeX kernel."""

from __future__ import annotations

import re

from ssmrank.reporting.table import BEST_OURS, BEST_OVERALL, SUBSTITUTE, Cell, Column, ResultTable, Row

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
    BEST_OVERALL: r"$\dagger$",
    BEST_OURS: r"$\ddagger$",
    SUBSTITUTE: r"$\ast$",
}
_MARKS = {BEST_OVERALL: r"\dagger", BEST_OURS: r"\ddagger", SUBSTITUTE: r"\ast"}

_FIXED = ("Model", "Size", "Prior", "Length")


def escape(text: str) -> str:
    """Plain text as LaTeX: no command, no ligature, one line."""
    escaped = "".join(_ESCAPES.get(sign, sign) for sign in " ".join(text.split()))
    # Two hyphens would become a dash; ?` and !` cannot occur any more.
    return re.sub("-(?=-)", "-{}", escaped)


def to_latex(table: ResultTable) -> str:
    """A `table` environment for \\input, which asks for nothing but the package booktabs."""
    columns = len(_FIXED) + len(table.columns)
    lines = ["% Needs \\usepackage{booktabs}.", "\\begin{table}[t]", "  \\centering", "  \\small"]
    # Marks take no width, so that the numbers stay in line; the space after the last column is theirs.
    alignment = "llll" + "r" * len(table.columns) + "@{\\hspace{1.2em}}"
    lines += [f"  \\begin{{tabular}}{{@{{}}{alignment}}}", "    \\toprule", *_header(table)]
    for section in table.sections:
        lines += [
            "    \\midrule",
            f"    \\multicolumn{{{columns}}}{{@{{}}l}}{{\\textit{{{escape(section.title)}}}}} \\\\",
        ]
        lines += [f"    {_row(row)} \\\\" for row in section.rows]
    lines += ["    \\bottomrule", "  \\end{tabular}", f"  \\caption{{{escape(table.caption)}}}"]
    lines += [f"  \\label{{{table.label}}}"] if table.label else []
    lines += ["\\end{table}"]
    return "\n".join(lines) + "\n"


def _header(table: ResultTable) -> list[str]:
    """Up to three lines: test sets, their metrics where these are not the names themselves, ours and the paper's."""
    groups: list[list[Column]] = []
    for column in table.columns:
        if column.paper:
            groups[-1].append(column)
        else:
            groups.append([column])
    labels = [_span(len(group), escape(group[0].label)) for group in groups]
    metrics = [
        _span(len(group), "" if group[0].metric == group[0].label else escape(group[0].metric)) for group in groups
    ]
    origins = ["" if len(group) == 1 else "ours & paper" for group in groups]
    empty = [""] * len(_FIXED)
    lines = [[*_FIXED, *labels]]
    if any(column.metric != column.label for column in table.columns):
        lines.append(empty + metrics)
    text = [f"    {' & '.join(line).lstrip()} \\\\" for line in lines]
    if table.has_paper:
        text.append(f"    {' '.join(_rules(groups))}")
        text.append(f"    {' & '.join(empty + origins).lstrip()} \\\\")
    return text


def _rules(groups: list[list[Column]]) -> list[str]:
    rules = []
    place = len(_FIXED) + 1
    for group in groups:
        if len(group) > 1:
            rules.append(f"\\cmidrule(lr){{{place}-{place + len(group) - 1}}}")
        place += len(group)
    return rules


def _span(width: int, text: str) -> str:
    return text if width == 1 else f"\\multicolumn{{{width}}}{{c}}{{{text}}}"


def _row(row: Row) -> str:
    label = escape(row.label) + (f"$^{{\\mathrm{{{row.kind}}}}}$" if row.kind else "")
    fixed = [escape(text) or "--" for text in (row.size, row.prior, row.length)]
    return " & ".join([label, *fixed, *map(_cell, row.cells)])


def _cell(cell: Cell) -> str:
    text = f"\\textbf{{{cell.text}}}" if cell.bold else cell.text
    marks = "".join(_MARKS[sign] for sign in cell.marks)
    return f"{text}\\rlap{{$^{{{marks}}}$}}" if marks else text
