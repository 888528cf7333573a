"""Tables as HTML pages."""

from __future__ import annotations

import re
from pathlib import Path

from ssmrank.config.table_settings import ResultColumn, ResultRow, ResultSection, TableSettings
from ssmrank.reporting.html import Origin, origins_of, to_html
from ssmrank.reporting.results import Result
from ssmrank.reporting.table import Cell, Column, ResultTable, Row, RowGroup

HOSTILE = '<script>alert("x")</script> & co'


def test_a_page_holds_the_table_and_its_marks_and_no_markup_of_the_user() -> None:
    columns = (Column("Dev", "MRR@10"), Column("Dev", "MRR@10", "paper"), Column("Dev", "MRR@10", "difference"))
    cells = (
        Cell("38.5", "0.3", bold=True, best_overall=True, significant="bc"),
        Cell("39.1"),
        Cell("-0.6", verdict="OKish"),
    )
    row = Row(HOSTILE, "D", "1M", "", "", cells, "a")
    table = ResultTable(f"Caption {HOSTILE}", "", columns, (RowGroup(HOSTILE, (row,)),))
    text = to_html(table, [Origin("A", "Dev", 0.38512345, 6980, "m.json", "r.trec")], HOSTILE)
    assert "<script" not in text and text.count("&lt;script&gt;") == 4
    assert '<b>38.5</b><span class="spread"> ± 0.3</span><sup>bc†</sup>' in text
    assert '−0.6<span class="verdict OKish">OKish</span>' in text
    assert '<th colspan="3">Dev MRR@10</th>' in text and "<th>ours</th><th>paper</th><th>Δ</th>" in text
    assert "<td>0.385123</td><td>6,980</td><td>m.json</td><td>r.trec</td>" in text
    assert not re.search(r"(src|href)=", text)


def test_every_file_behind_a_number_is_named() -> None:
    settings = TableSettings(
        caption="C.",
        collections=["X"],
        columns=[ResultColumn(label="Mean", metric="nDCG@10", tests=["x/t", "y/t"])],
        sections=[ResultSection(title="S", rows=[ResultRow(label="A", length="F", runs=["a", "a@seed2"])])],
    )
    results = {
        key: Result(Path(f"m/{key}.json"), "ok", 5, {"nDCG@10": 0.5}, f"runs/{key}.trec")
        for key in settings.metric_keys()
    }
    results["y/t/a@seed2"] = Result(Path("m/oom.json"), "oom", 5, {}, "runs/oom.trec")
    origins = origins_of(settings, results)
    assert [origin.run for origin in origins] == [
        "runs/x/t/a.trec",
        "runs/y/t/a.trec",
        "runs/x/t/a@seed2.trec",
        "runs/oom.trec",
    ]
    assert {origin.system for origin in origins} == {"A F"} and origins[-1].mean is None
