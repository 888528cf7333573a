from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ssmrank.cli import main
from ssmrank.reporting.latex import to_latex
from ssmrank.reporting.table import Cell, Column, ResultTable, Row, RowGroup

needs_latex = pytest.mark.skipif(shutil.which("latexmk") is None, reason="latexmk is not installed")

HOSTILE = 'A & B_1 {50%} $x$ #2 ~ ^ \\cmd <b> "q" | `c` *s* é – “r” †‡'
TABLE = ResultTable(
    caption=f"Caption with {HOSTILE}.",
    label="tab:documents",
    columns=(Column("Dev", "MRR@100"), Column("Dev", "MRR@100", "paper"), Column("DL19", "nDCG@10")),
    sections=(
        RowGroup(
            HOSTILE,
            (
                Row("BM25", "", "", "", "", (Cell("30.0"), Cell(), Cell("50.0", bold=True, best_overall=True))),
                Row(
                    HOSTILE,
                    "D",
                    "1M",
                    "BM25 top-30",
                    "F (64)",
                    (Cell("OOM"), Cell("9.9", substitute=True), Cell("1.0")),
                ),
            ),
        ),
    ),
)


@pytest.fixture
def tex(tmp_path: Path) -> Path:
    path = tmp_path / "table4.tex"
    path.write_text(to_latex(TABLE), encoding="utf-8")
    return path


@needs_latex
def test_compiles_with_the_text_as_written(tex: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "out" / "table4.pdf"
    assert main(["table", "pdf", "--tex", str(tex), "--output", str(pdf)]) == 0
    assert pdf.read_bytes().startswith(b"%PDF")
    assert list(pdf.parent.iterdir()) == [pdf]
    if shutil.which("pdftotext"):
        text = subprocess.run(
            ["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, check=True
        ).stdout
        assert "Table 4:" in text and "OOM" in text
        assert "50%" in text and "\\cmd" in text and "#2" in text and "B_1" in text.replace(" ", "_")


@needs_latex
def test_equal_tables_give_equal_bytes(tex: Path, tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        assert main(["table", "pdf", "--tex", str(tex), "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


@needs_latex
def test_an_error_of_latex_is_one_line_and_leaves_no_file(
    tex: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tex.write_text("\\undefinedcommand\n")
    assert main(["table", "pdf", "--tex", str(tex), "--output", str(tmp_path / "t.pdf")]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "table4.tex: LaTeX failed:" in error and "Undefined control sequence" in error
    assert not (tmp_path / "t.pdf").exists()


def test_without_latexmk_one_line_says_what_to_install(
    tex: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["table", "pdf", "--tex", str(tex), "--output", str(tmp_path / "t.pdf")]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and "latexmk is not installed; on Debian: apt-get install" in error


def test_missing_table_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["table", "pdf", "--tex", str(tmp_path / "absent.tex"), "--output", str(tmp_path / "t.pdf")]) == 2
    assert "absent.tex: cannot read" in capsys.readouterr().err
