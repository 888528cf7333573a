"""Tables of text about models and trainings, as LaTeX, CSV, Markdown and HTML."""

from __future__ import annotations

import csv
import io
from html import escape as escape_html
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ssmrank.config.overview_settings import OverviewSettings
from ssmrank.errors import UserError
from ssmrank.reporting.html import page
from ssmrank.reporting.latex import escape
from ssmrank.reporting.markdown import escape as escape_markdown


def counted(settings: OverviewSettings, models: Path) -> OverviewSettings:
    """Adds the number of parameters to the rows that ask for it; `models` is the folder of models' folders."""
    sections = []
    for section in settings.sections:
        rows = [
            row if row.counted is None else row.model_copy(update={"cells": [*row.cells, _size(models / row.counted)]})
            for row in section.rows
        ]
        sections.append(section.model_copy(update={"rows": rows}))
    return settings.model_copy(update={"sections": sections})


def parameters(folder: Path) -> int:
    """The number of weights in a checkpoint's safetensors files, from their headers; tied weights are there once.

    Raises UserError where there is no such file or one is malformed.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: has no safetensors file; make it with `ssmrank download model`")
    total = 0
    for file in files:
        try:
            with safe_open(file, "np") as tensors:
                total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{file}: is not a safetensors file ({error}); get the model again") from error
    return total


def to_latex(settings: OverviewSettings) -> str:
    """A `table` environment for \\input, which needs only the package booktabs."""
    alignment = "l" * len(settings.columns)
    lines = ["% Needs \\usepackage{booktabs}.", "\\begin{table}[t]", "  \\centering", "  \\small"]
    lines += [f"  \\begin{{tabular}}{{@{{}}{alignment}@{{}}}}", "    \\toprule"]
    lines.append(f"    {' & '.join(map(escape, settings.columns))} \\\\")
    for section in settings.sections:
        title = f"\\multicolumn{{{len(settings.columns)}}}{{@{{}}l}}{{\\textit{{{escape(section.title)}}}}}"
        lines += ["    \\midrule", f"    {title} \\\\"]
        lines += [f"    {' & '.join(map(escape, row.cells))} \\\\" for row in section.rows]
    lines += ["    \\bottomrule", "  \\end{tabular}", f"  \\caption{{{escape(settings.caption)}}}"]
    lines += [f"  \\label{{{settings.label}}}"] if settings.label else []
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def to_csv(settings: OverviewSettings) -> str:
    """Header and rows; the first column is the section's title."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["section", *settings.columns])
    writer.writerows([section.title, *row.cells] for section in settings.sections for row in section.rows)
    return stream.getvalue()


def to_html(settings: OverviewSettings) -> str:
    """A complete HTML page."""
    lines = [f'<p class="caption">{escape_html(settings.caption)}</p>', '<div class="wide"><table><thead><tr>']
    lines += [f"<th>{escape_html(name)}</th>" for name in settings.columns]
    lines.append("</tr></thead>")
    for section in settings.sections:
        title = f'<th colspan="{len(settings.columns)}">{escape_html(section.title)}</th>'
        lines.append(f'<tbody><tr class="section">{title}</tr>')
        rows = ("".join(f"<td>{escape_html(cell)}</td>" for cell in row.cells) for row in section.rows)
        lines += [*(f"<tr>{row}</tr>" for row in rows), "</tbody>"]
    return page(settings.label or "Overview", [*lines, "</table></div>"])


def to_markdown(settings: OverviewSettings) -> str:
    """The caption, then a table whose section titles are rows of their own."""
    lines = [escape_markdown(settings.caption), "", _line(settings.columns), _line(["---"] * len(settings.columns))]
    for section in settings.sections:
        lines.append(_line([f"*{escape_markdown(section.title)}*"] + [""] * (len(settings.columns) - 1)))
        lines += [_line([escape_markdown(cell) for cell in row.cells]) for row in section.rows]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _size(folder: Path) -> str:
    count = parameters(folder)
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count:,}"
