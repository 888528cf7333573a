from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ssmrank.config import ResultColumn, ResultRow, ResultSection, TableSettings
from ssmrank.errors import UserError
from ssmrank.reporting.paper import read_paper
from ssmrank.reporting.results import Result
from ssmrank.reporting.table import Cell, ResultTable, build_table, percent


def row(label: str, key: str, **more: Any) -> ResultRow:
    defaults: dict[str, Any] = {"kind": "D", "size": "1M", "prior": "BM25 top-30", "length": "FirstP (64)"}
    return ResultRow(**{"label": label, "metrics": [key], "pretrained": False, **defaults, **more})


def first_stage(label: str, key: str) -> ResultRow:
    return ResultRow(label=label, metrics=[key])


def settings(*sections: list[ResultRow], **more: Any) -> TableSettings:
    return TableSettings(
        caption="A caption",
        collections=["Semanlink"],
        columns=[ResultColumn(label="nDCG@10", metric="nDCG@10", paper=more.get("paper"))],
        sections=[ResultSection(title=f"S{number}", rows=rows) for number, rows in enumerate(sections)],
    )


def results(**values: float | None) -> dict[str, Result]:
    return {
        key: Result(Path(f"{key}.json"), "ok" if value is not None else "oom", 460, {"nDCG@10": value} if value else {})
        for key, value in values.items()
    }


def cells(table: ResultTable) -> dict[str, Cell]:
    return {row.label: row.cells[0] for section in table.sections for row in section.rows}


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0.4745, "47.5"),
        (0.47449, "47.4"),
        (0.4885, "48.9"),
        (0.4845, "48.5"),
        (0.0, "0.0"),
        (1.0, "100.0"),
        (1e-5, "0.0"),
    ],
)
def test_rounds_halves_away_from_zero(value: float, printed: str) -> None:
    assert percent(value) == Decimal(printed)
    assert str(percent(value)) == printed


def test_marks_the_best_of_each_section_overall_and_of_ours() -> None:
    table = build_table(
        settings([first_stage("BM25", "bm25")], [row("A", "a"), row("B", "b")], [row("C", "c")]),
        results(bm25=0.5, a=0.3, b=0.4, c=0.2),
        read_paper(),
    )
    assert cells(table) == {
        "BM25": Cell("50.0", bold=True, best_overall=True),
        "A": Cell("30.0"),
        "B": Cell("40.0", bold=True, best_ours=True),
        "C": Cell("20.0", bold=True),
    }


def test_values_equal_as_printed_share_every_mark() -> None:
    table = build_table(
        settings([row("A", "a"), row("B", "b"), row("C", "c")]), results(a=0.40004, b=0.39996, c=0.3994), read_paper()
    )
    best = Cell("40.0", bold=True, best_overall=True, best_ours=True)
    assert cells(table) == {"A": best, "B": best, "C": Cell("39.9")}


def test_oom_is_printed_and_never_best() -> None:
    table = build_table(settings([row("A", "a")], [row("B", "b")]), results(a=None, b=0.1), read_paper())
    assert cells(table)["A"] == Cell("OOM")
    assert cells(table)["B"].best_overall
    assert "OOM: did not fit in memory." in table.caption


def test_a_table_of_nothing_but_oom_or_first_stages_has_no_mark_of_ours() -> None:
    assert cells(build_table(settings([row("A", "a")]), results(a=None), read_paper()))["A"] == Cell("OOM")
    table = build_table(settings([first_stage("BM25", "bm25")]), results(bm25=0.5), read_paper())
    assert not cells(table)["BM25"].best_ours


def test_caption_says_which_rows_start_from_random_weights() -> None:
    rows = [row("MiniLM", "a", pretrained=True, kind="E"), row("OPT", "b"), row("Mamba", "c"), row("OPT", "d")]
    caption = build_table(settings(rows), results(a=0.4, b=0.1, c=0.2, d=0.3), read_paper()).caption
    assert caption.startswith("A caption. Test collection: Semanlink. Means over 460 queries, times 100")
    assert "Superscripts: E encoder-only and D decoder-only." in caption
    assert "Pretrained before fine-tuning: MiniLM." in caption
    assert "OPT and Mamba start from random weights, so their order is not a finding." in caption
    assert "OOM" not in caption and "paper" not in caption


def test_caption_where_all_rows_are_alike() -> None:
    random = build_table(settings([row("A", "a")]), results(a=0.1), read_paper()).caption
    assert "All rerankers start from random weights, so their order is not a finding." in random
    pretrained = build_table(settings([row("A", "a", pretrained=True)]), results(a=0.1), read_paper()).caption
    assert "random" not in pretrained
    none = build_table(settings([first_stage("BM25", "a")]), results(a=0.1), read_paper()).caption
    assert "reranker" not in none and "Superscript" not in none


def test_the_papers_numbers_stand_beside_and_unknown_ones_are_blank() -> None:
    table = build_table(
        settings(
            [first_stage("BM25", "bm25")],
            [row("BERT-large", "a", max_length=512), row("BERT-large", "b", max_length=64), row("OPT-350M", "c")],
            paper="passage-dl19",
        ),
        results(bm25=0.5, a=0.6, b=0.61, c=0.62),
        read_paper(),
    )
    assert [column.paper for column in table.columns] == [False, True]
    beside = [row.cells[1] for section in table.sections for row in section.rows]
    assert beside == [Cell("50.6"), Cell("76.4"), Cell(), Cell()]
    assert "others are blank" in table.caption


def test_a_substitute_is_marked_and_its_source_named() -> None:
    table = build_table(settings([first_stage("BM25", "a")], paper="document-dl19"), results(a=0.5), read_paper())
    assert table.sections[0].rows[0].cells[1] == Cell("51.8", substitute=True)
    assert "* from another source than the paper: Pyserini" in table.caption


def test_the_papers_oom_is_known() -> None:
    rows = [row("Mamba-1-1.4B", "a", max_length=1536)]
    table = build_table(settings(rows, paper="document-dl19"), results(a=0.5), read_paper())
    assert table.sections[0].rows[0].cells[1] == Cell("OOM")


def test_wrong_paper_columns_are_refused() -> None:
    with pytest.raises(UserError, match=r"'dl19' is no test set of the paper; known: passage-dev"):
        build_table(settings([row("A", "a")], paper="dl19"), results(a=0.1), read_paper())
    with pytest.raises(UserError, match=r"its metric is nDCG@10, but the paper's passage-dev is MRR@10"):
        build_table(settings([row("A", "a")], paper="passage-dev"), results(a=0.1), read_paper())


def test_missing_metric_and_other_number_of_queries_are_refused() -> None:
    wrong = {"a": Result(Path("a.json"), "ok", 460, {"MRR@10": 0.1})}
    with pytest.raises(UserError, match=r"a\.json: holds no nDCG@10 \(it has MRR@10\); add it to evaluation\.metrics"):
        build_table(settings([row("A", "a")]), wrong, read_paper())
    stale = results(a=0.1) | {"b": Result(Path("b.json"), "ok", 459, {"nDCG@10": 0.1})}
    with pytest.raises(UserError, match=r"b\.json: 459 queries, but a\.json has 460"):
        build_table(settings([row("A", "a"), row("B", "b")]), stale, read_paper())


def test_every_number_of_the_paper_has_a_column_and_a_source() -> None:
    paper = read_paper()
    for block in paper.blocks:
        assert block.source
        for known in block.rows:
            assert known.values and set(known.values) <= set(paper.columns)
