from __future__ import annotations

import csv
import io
import re

from ssmrank.reporting import latex, markdown
from ssmrank.reporting.delimited import to_csv
from ssmrank.reporting.latex import to_latex
from ssmrank.reporting.markdown import to_markdown
from ssmrank.reporting.pdf import PAGE
from ssmrank.reporting.table import Cell, Column, ResultTable, Row, RowGroup

HOSTILE = 'A & B_1 {50%} $x$ #2 ~ ^ \\cmd <b> "q" | [l](u) `c` *s* a--b'

TABLE = ResultTable(
    caption="First. † overall, ‡ ours.",
    label="tab:documents",
    columns=(
        Column("Dev", "MRR@100"),
        Column("Dev", "MRR@100", "paper"),
        Column("Dev", "MRR@100", "difference"),
        Column("DL19", "nDCG@10"),
    ),
    sections=(
        RowGroup(
            "First stage", (Row("BM25", "", "", "", "", (Cell("30.0"), Cell(), Cell(), Cell("50.0", bold=True))),)
        ),
        RowGroup(
            HOSTILE,
            (
                Row(HOSTILE, "D", "1M", "BM25 top-30", "FirstP (64)", (Cell("OOM"), Cell("OOM"), Cell(), Cell("40.0"))),
                Row(
                    "Mamba-2",
                    "D",
                    "1M",
                    "BM25 top-30",
                    "LongP (192)",
                    (
                        Cell("60.0", bold=True, best_overall=True, best_ours=True),
                        Cell("51.8", substitute=True),
                        Cell("+8.2", verdict="FAIL"),
                        Cell("40.0"),
                    ),
                ),
            ),
        ),
    ),
)


def latex_rows(text: str) -> list[list[str]]:
    """The cells of each line of the tabular that ends in \\\\."""
    body = text.split("\\begin{tabular}")[1].split("\\end{tabular}")[0]
    lines = [line.strip().removesuffix("\\\\").strip() for line in body.splitlines() if line.endswith("\\\\")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]


def test_latex_rows_and_marks() -> None:
    rows = latex_rows(to_latex(TABLE))
    assert rows[0] == ["Model", "Size", "Prior", "Length", "\\multicolumn{3}{c}{Dev}", "DL19"]
    assert rows[1] == ["", "", "", "", "\\multicolumn{3}{c}{MRR@100}", "nDCG@10"]
    assert rows[2] == ["", "", "", "", "ours", "paper", "$\\Delta$", ""]
    assert rows[3] == ["\\multicolumn{8}{@{}l}{\\textit{First stage}}"]
    assert rows[4] == ["BM25", "--", "--", "--", "30.0", "", "", "\\textbf{50.0}"]
    assert rows[-1] == [
        "Mamba-2$^{\\mathrm{D}}$",
        "1M",
        "BM25 top-30",
        "LongP (192)",
        "\\textbf{60.0}\\rlap{$^{\\dagger\\ddagger}$}",
        "51.8\\rlap{$^{\\ast}$}",
        "$+8.2$\\,{\\tiny FAIL}",
        "40.0",
    ]


def test_latex_uses_booktabs_and_no_other_package() -> None:
    text = to_latex(TABLE)
    for command in ("\\toprule", "\\midrule", "\\bottomrule", "\\cmidrule(lr){5-7}"):
        assert command in text
    assert text.count("\\midrule") == 1 + len(TABLE.sections) - 1
    assert "\\multirow" not in text and "\\SI" not in text
    assert "\\label{tab:documents}" in text
    assert re.findall(r"usepackage(?:\[.*\])?{([\w,]+)}", PAGE) == ["geometry", "booktabs,graphicx,pdflscape"]


def test_latex_without_paper_or_other_metric_has_one_line_of_header() -> None:
    rows = (Row("BM25", "", "", "", "", (Cell("1.0"),)),)
    text = to_latex(ResultTable("C.", "", (Column("nDCG@10", "nDCG@10"),), (RowGroup("S", rows),)))
    assert [row[0] for row in latex_rows(text)] == ["Model", "\\multicolumn{2}{@{}l}{\\textit{S}}", "BM25"]
    assert "\\label" not in text and "cmidrule" not in text


def test_latex_escapes_user_text() -> None:
    assert latex.escape("50% & a_b #1 $x$ {y}") == r"50\% \& a\_b \#1 \$x\$ \{y\}"
    assert latex.escape("\\input{x}~^<>|") == (
        r"\textbackslash{}input\{x\}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"
    )
    assert latex.escape("two\nlines\t here") == "two lines here"
    assert latex.escape("a--b---c") == "a-{}-b-{}-{}-c"
    assert latex.escape("†‡") == r"$\dagger$$\ddagger$"


def test_markdown_rows() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert lines[0] == "First. † overall, ‡ ours."
    table = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]
    assert {len(cells) for cells in table} == {8}
    assert [cell.strip() for cell in table[0][4:]] == [
        "Dev MRR@100",
        "Dev MRR@100 (paper)",
        "Dev MRR@100 (difference)",
        "DL19 nDCG@10",
    ]
    assert [cell.strip() for cell in table[-1]] == [
        "Mamba-2<sup>D</sup>",
        "1M",
        "BM25 top-30",
        "LongP (192)",
        "**60.0**†‡",
        "51.8\\*",
        "+8.2 FAIL",
        "40.0",
    ]
    assert [cell.strip() for cell in table[3]] == ["BM25", "–", "–", "–", "30.0", "", "", "**50.0**"]


def test_markdown_escapes_user_text() -> None:
    assert markdown.escape("a|b *c* _d_ [e](f) <g> `h` \\") == ("a\\|b \\*c\\* \\_d\\_ \\[e\\](f) \\<g\\> \\`h\\` \\\\")
    assert markdown.escape("two\nlines") == "two lines"


def test_csv_reads_back() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert [row["model"] for row in rows] == ["BM25", HOSTILE, "Mamba-2"]
    assert rows[1]["section"] == HOSTILE
    assert rows[1]["Dev MRR@100"] == "OOM"
    assert rows[2] == {
        "section": HOSTILE,
        "model": "Mamba-2",
        "kind": "D",
        "size": "1M",
        "prior": "BM25 top-30",
        "length": "LongP (192)",
        "Dev MRR@100": "60.0",
        "Dev MRR@100 (paper)": "51.8",
        "Dev MRR@100 (difference)": "+8.2",
        "Dev MRR@100 (difference) (verdict)": "FAIL",
        "DL19 nDCG@10": "40.0",
    }


def test_all_renderings_print_the_same_numbers() -> None:
    numbers = [cell.text for section in TABLE.sections for row in section.rows for cell in row.cells if cell.text]
    for text in (to_latex(TABLE), to_csv(TABLE), to_markdown(TABLE)):
        assert re.findall(r"(?<![\d.(])[+]?\d+\.\d(?![\de])|OOM", text) == numbers


def test_seeds_letters_and_arrows() -> None:
    def table(cell: Cell, letter: str) -> ResultTable:
        rows = (Row("A", "D", "", "", "", (cell,), letter),)
        return ResultTable("C.", "", (Column("Dev", "Dev"),), (RowGroup("S", rows),))

    lettered = table(Cell("60.0", "1.2", bold=True, best_overall=True, significant="bc"), "a")
    assert latex_rows(to_latex(lettered))[-1] == [
        "$^{a}$A$^{\\mathrm{D}}$",
        "\\textbf{60.0}{\\scriptsize$\\pm$1.2}$^{bc\\dagger}$",
    ]
    assert to_markdown(lettered).splitlines()[-1].split("|")[-2].strip() == "**60.0** ± 1.2<sup>bc</sup>†"
    [row] = csv.DictReader(io.StringIO(to_csv(lettered)))
    assert (row["letter"], row["Dev"], row["Dev (standard deviation)"]) == ("a", "60.0", "1.2")
    assert row["Dev (significance)"] == "bc"
    arrow = table(Cell("60.0", significant="↑"), "")
    assert latex_rows(to_latex(arrow))[-1][-1] == "60.0\\rlap{$^{\\uparrow}$}"


def test_a_wide_table_is_scaled_and_says_once_what_all_rows_share() -> None:
    columns = tuple(Column(f"C{number}", "nDCG@10") for number in range(7))
    cells = (Cell("1.0"),) * 7
    rows = (
        Row("BM25", "", "", "", "", cells),
        Row("A", "D", "1M", "BM25 top-30", "512", cells),
        Row("B", "D", "2M", "BM25 top-30", "512", cells),
    )
    table = ResultTable("C.", "", columns, (RowGroup("S", rows),))
    assert table.facts == ("Size",) and table.common_facts == {"Prior": "BM25 top-30", "Length": "512"}
    text = to_latex(table)
    assert latex_rows(text)[0] == ["Model", "Size", *(f"C{number}" for number in range(7))]
    assert text.count("{") == text.count("}") and "\\resizebox{" in text
    assert to_markdown(table).splitlines()[2].startswith("| Model | Size | C0")
    assert "prior" in to_csv(table).splitlines()[0]
    narrow = ResultTable("C.", "", columns[:6], (RowGroup("S", (Row("A", "D", "1M", "P", "L", cells[:6]),)),))
    assert narrow.facts == ("Size", "Prior", "Length") and not narrow.common_facts
    assert "resizebox" not in to_latex(narrow)
