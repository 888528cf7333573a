"""`ssmrank pdf`: a table of `ssmrank table` as a page."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.tracking import track

PAGE = r"""\documentclass[10pt,a4paper]{article}
\usepackage[margin=18mm]{geometry}
\usepackage{booktabs}
\pagestyle{empty}
% A page of floats begins at the top.
\makeatletter\setlength{\@fptop}{0pt}\makeatother
\begin{document}
\setcounter{table}{NUMBER}
\input{table}
\end{document}
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("--tex", type=Path, required=True, help="LaTeX file that `ssmrank table` wrote")
    parser.add_argument("--output", type=Path, required=True, help="PDF file to write")


def run(arguments: argparse.Namespace) -> None:
    """Compiles the page in a temporary folder and writes the PDF."""
    try:
        table = arguments.tex.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{arguments.tex}: cannot read: {error.strerror}; run `ssmrank table` first") from error
    tracked = track("pdf", arguments.output.name, {"table": arguments.tex.stem})
    with tracked, tempfile.TemporaryDirectory(prefix="ssmrank-latex-") as folder:
        pdf = compile_page(table, Path(folder), str(arguments.tex))
        with atomic_file(arguments.output, "wb") as stream:
            stream.write(pdf)


def compile_page(table: str, folder: Path, source: str) -> bytes:
    """The PDF of one page with `table`; equal tables give equal bytes.

    Raises UserError where latexmk is missing, or with LaTeX's first error; `source` is the file that it names.
    """
    latexmk = shutil.which("latexmk")
    if latexmk is None:
        raise UserError(
            "latexmk is not installed; on Debian: "
            "apt-get install texlive-latex-base texlive-latex-recommended latexmk (the .tex, .csv and .md need none)"
        )
    (folder / "table.tex").write_text(table, encoding="utf-8")
    # table4.tex shows itself as Table 4.
    number = re.search(r"([1-9][0-9]?)$", Path(source).stem)
    page = PAGE.replace("NUMBER", str(int(number[1]) - 1 if number else 0))
    (folder / "page.tex").write_text(page, encoding="utf-8")
    finished = subprocess.run(
        [latexmk, "-norc", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error", "page.tex"],
        cwd=folder,
        # A fixed date, so that the file depends on the table alone.
        env={**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "1000"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    pdf = folder / "page.pdf"
    if finished.returncode != 0 or not pdf.exists():
        raise UserError(f"{source}: LaTeX failed: {_first_error(folder / 'page.log', finished.stdout)}")
    return pdf.read_bytes()


def _first_error(log: Path, output: str) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else output.splitlines()
    for line in lines:
        if line.startswith("!") or ".tex:" in line:
            return line.removeprefix("!").removeprefix("./").strip()
    return (lines or ["no log"])[-1].strip()
