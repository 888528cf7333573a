"""Compiles LaTeX tables to PDF pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ssmrank.errors import UserError

PAGE = r"""\documentclass[10pt,a4paper]{article}
\usepackage[margin=18mm]{geometry}
\usepackage{booktabs,graphicx,pdflscape}
\pagestyle{empty}
% A page of floats begins at the top.
\makeatletter\setlength{\@fptop}{0pt}\makeatother
\begin{document}
TABLES
\end{document}
"""


def compile_pages(tables: Mapping[Path, str], folder: Path) -> bytes:
    """The PDF of the tables, each on its own page; equal tables give equal bytes. `folder` is a scratch folder.

    Raises UserError where latexmk is missing or LaTeX fails; the message has its first error and the table's path.
    """
    latexmk = shutil.which("latexmk")
    if latexmk is None:
        raise UserError(
            "latexmk is not installed; on Debian: "
            "apt-get install texlive-latex-base texlive-latex-recommended latexmk (the .tex, .csv and .md need none)"
        )
    inputs = []
    for number, (path, text) in enumerate(tables.items()):
        (folder / f"input{number}.tex").write_text(text, encoding="utf-8")
        # table4.tex gets the number 4.
        shown = re.search(r"([1-9][0-9]?)$", path.stem)
        counter = f"\\setcounter{{table}}{{{int(shown[1]) - 1}}}" if shown else ""
        shows = f"{counter}\\input{{input{number}}}\\clearpage"
        inputs.append(f"\\begin{{landscape}}{shows}\\end{{landscape}}" if "\\resizebox" in text else shows)
    (folder / "page.tex").write_text(PAGE.replace("TABLES", "\n".join(inputs)), encoding="utf-8")
    finished = subprocess.run(
        [latexmk, "-norc", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error", "page.tex"],
        cwd=folder,
        # The date is fixed, so that the bytes depend on the tables alone.
        env={**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "1000"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    pdf = folder / "page.pdf"
    if finished.returncode != 0 or not pdf.exists():
        reason = _first_error(folder / "page.log", finished.stdout)
        where = re.match(r"input([0-9]+)\.tex", reason)
        path = list(tables)[int(where[1]) if where else 0]
        raise UserError(f"{path}: LaTeX failed: {reason}")
    return pdf.read_bytes()


def _first_error(log: Path, output: str) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else output.splitlines()
    for line in lines:
        if line.startswith("!") or ".tex:" in line:
            return line.removeprefix("!").removeprefix("./").strip()
    return (lines or ["no log"])[-1].strip()
