from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ssmrank.config.table_settings import ResultColumn, ResultRow, ResultSection, TableSettings
from ssmrank.errors import UserError
from ssmrank.reporting.caption import caption_of
from ssmrank.reporting.comparisons import Compared, letters_of
from ssmrank.reporting.html import origins_of
from ssmrank.reporting.paper import read_paper
from ssmrank.reporting.results import Result
from ssmrank.reporting.table import Cell, ResultTable, build_table
from ssmrank.reporting.values import percent


def row(label: str, runs: str, **more: Any) -> ResultRow:
    defaults: dict[str, Any] = {"kind": "D", "size": "1M", "prior": "BM25 top-30", "length": "FirstP (64)"}
    return ResultRow(**{"label": label, "runs": runs.split(), "pretrained": False, **defaults, **more})


def first_stage(label: str, key: str) -> ResultRow:
    return ResultRow(label=label, runs=[key])


def settings(*sections: list[ResultRow], **more: Any) -> TableSettings:
    column = {key: more.pop(key) for key in ("paper", "tests") if key in more}
    return TableSettings(
        caption="A caption",
        collections=["Semanlink"],
        columns=[ResultColumn(label="nDCG@10", metric="nDCG@10", **({"tests": ["t"]} | column))],
        sections=[ResultSection(title=f"S{number}", rows=rows) for number, rows in enumerate(sections)],
        **more,
    )


def results(**values: float | None) -> dict[str, Result]:
    """By key; a word without a slash is a run on the test `t`."""
    found = {}
    for run, value in values.items():
        status, mean = ("oom", {}) if value is None else ("ok", {"nDCG@10": value})
        found[run if "/" in run else f"t/{run}"] = Result(Path(f"{run}.json"), status, 460, mean)
    return found


def caption(built: TableSettings, values: dict[str, Result]) -> str:
    return caption_of(built, values, build_table(built, values, read_paper()))


def cells(table: ResultTable) -> dict[str, Cell]:
    return {row.label: row.cells[0] for section in table.sections for row in section.rows}


def significant(table: ResultTable) -> dict[str, str]:
    return {label: cell.significant for label, cell in cells(table).items()}


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


def test_rows_that_some_columns_are_not_for() -> None:
    shown = settings([first_stage("BM25", "bm25")], [row("A", "a", columns=[1])], [row("B", "b")])
    columns = [
        ResultColumn(label=label, metric="nDCG@10", tests=[test]) for label, test in (("First", "t"), ("Second", "u"))
    ]
    shown = shown.model_copy(update={"columns": columns})
    assert shown.metric_keys() == ["t/bm25", "u/bm25", "u/a", "t/b", "u/b"]
    values = results(**{"bm25": 0.5, "u/bm25": 0.4, "u/a": 0.6, "b": None, "u/b": 0.3})
    table = build_table(shown, values, read_paper())
    texts = {row.label: [cell.text for cell in row.cells] for section in table.sections for row in section.rows}
    assert texts == {"BM25": ["50.0", "40.0"], "A": ["", "60.0"], "B": ["OOM", "30.0"]}
    assert "460 queries" in caption(shown, values)
    assert [origin.system for origin in origins_of(shown, values) if origin.column.startswith("First")] == [
        "BM25",
        "B FirstP (64)",
    ]


def test_a_label_that_says_its_metric_is_the_whole_title() -> None:
    shown = settings([first_stage("BM25", "bm25")])
    labels = ("NFCorpus", "NFCorpus nDCG@10", "nDCG@10", "nDCG@10 of tags")
    columns = [ResultColumn(label=label, metric="nDCG@10", tests=["t"]) for label in labels]
    shown = shown.model_copy(update={"columns": columns})
    table = build_table(shown, results(bm25=0.5), read_paper())
    titles = ["NFCorpus nDCG@10", "NFCorpus nDCG@10", "nDCG@10", "nDCG@10 of tags nDCG@10"]
    assert [column.title for column in table.columns] == titles
    assert [origin.column for origin in origins_of(shown, results(bm25=0.5))] == titles


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
    shown, values = settings([row("A", "a")], [row("B", "b")]), results(a=None, b=0.1)
    table = build_table(shown, values, read_paper())
    assert cells(table)["A"] == Cell("OOM")
    assert cells(table)["B"].best_overall
    assert "OOM: did not fit in memory." in caption(shown, values)


def test_a_table_of_nothing_but_oom_or_first_stages_has_no_mark_of_ours() -> None:
    assert cells(build_table(settings([row("A", "a")]), results(a=None), read_paper()))["A"] == Cell("OOM")
    table = build_table(settings([first_stage("BM25", "bm25")]), results(bm25=0.5), read_paper())
    assert not cells(table)["BM25"].best_ours


def test_caption_says_which_rows_start_from_random_weights() -> None:
    rows = [row("MiniLM", "a", pretrained=True, kind="E"), row("OPT", "b"), row("Mamba", "c"), row("OPT", "d")]
    text = caption(settings(rows), results(a=0.4, b=0.1, c=0.2, d=0.3))
    assert text.startswith("A caption. Test collection: Semanlink. Means over 460 queries, times 100")
    assert "Superscripts: E encoder-only and D decoder-only." in text
    assert "Pretrained before fine-tuning: MiniLM." in text
    assert "OPT and Mamba start from random weights, so their order is not a finding." in text
    assert "OOM" not in text and "paper" not in text and "seed" not in text


def test_caption_where_all_rows_are_alike() -> None:
    random = caption(settings([row("A", "a")]), results(a=0.1))
    assert "All rerankers start from random weights, so their order is not a finding." in random
    pretrained = caption(settings([row("A", "a", pretrained=True)]), results(a=0.1))
    assert "random" not in pretrained
    none = caption(settings([first_stage("BM25", "a")]), results(a=0.1))
    assert "reranker" not in none and "Superscript" not in none


def test_caption_names_rows_that_are_not_trained_here() -> None:
    text = caption(settings([row("A", "a", pretrained=None), row("B", "b", pretrained=True)]), results(a=0.4, b=0.1))
    assert "Not trained here, the checkpoint as it is: A. All other rerankers were pretrained before" in text


def test_caption_says_which_columns_are_means_of_means() -> None:
    columns = [ResultColumn(label=t[0], metric="nDCG@10", tests=t.split()) for t in ("t", "u v")]
    shown = settings([row("A", "a")]).model_copy(update={"columns": columns})
    values = results(**{"t/a": 0.1, "u/a": 0.2, "v/a": 0.3})
    assert "Means over 460 queries (t); mean of 2 collections' means (u), times 100" in caption(shown, values)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"depth": 30}, "Rerankers reorder the first 30 documents of a query."),
        (
            {"depth": 5},
            "the first 5 documents of a query and return no others, of which nDCG@10 would count some.",
        ),
        (
            {"depth": 5, "remainder": "kept"},
            "Rerankers reorder the first 5 documents of a query; the first stage's others follow in its order.",
        ),
    ],
)
def test_caption_says_the_depth(given: dict[str, Any], sentence: str) -> None:
    assert sentence in caption(settings([row("A", "a")], **given), results(a=0.1))
    assert "reorder" not in caption(settings([first_stage("BM25", "a")], **given), results(a=0.1))


def test_the_papers_numbers_stand_beside_and_unknown_ones_are_blank() -> None:
    shown = settings(
        [first_stage("BM25", "bm25")],
        [row("BERT-large", "a", max_length=512), row("BERT-large", "b", max_length=64), row("OPT-350M", "c")],
        paper="passage-dl19",
    )
    values = results(bm25=0.506, a=0.756, b=0.61, c=0.62)
    table = build_table(shown, values, read_paper())
    assert [column.origin for column in table.columns] == ["ours", "paper", "difference"]
    beside = [row.cells[1:] for section in table.sections for row in section.rows]
    assert beside == [
        (Cell("50.6"), Cell("+0.0", verdict="OK")),
        (Cell("76.4"), Cell("-0.8", verdict="OKish")),
        (Cell(), Cell()),
        (Cell(), Cell()),
    ]
    text = caption(shown, values)
    assert "others are blank" in text and "OK up to 0.5, OKish up to 1.5, else FAIL" in text


def test_a_verdict_is_about_the_numbers_as_printed_and_either_direction() -> None:
    tolerance = {"ok": 0.1, "okish": 1.0}
    for ours, expected in ((0.5069, "OK"), (0.50751, "OKish"), (0.4959, "OKish"), (0.49549, "FAIL"), (0.517, "FAIL")):
        shown = settings([first_stage("BM25", "a")], paper="passage-dl19", tolerance=tolerance)
        table = build_table(shown, results(a=ours), read_paper())
        assert table.sections[0].rows[0].cells[2].verdict == expected, ours


def test_a_substitute_is_marked_and_its_source_named() -> None:
    shown = settings([first_stage("BM25", "a")], paper="document-dl19")
    table = build_table(shown, results(a=0.5), read_paper())
    assert table.sections[0].rows[0].cells[1] == Cell("51.8", substitute=True)
    assert "* from another source than the paper: Pyserini" in caption(shown, results(a=0.5))


def test_oom_beside_the_papers() -> None:
    def beside(label: str, ours: float | None) -> tuple[Cell, ...]:
        shown = settings([row(label, "a", max_length=1536)], paper="document-dl19")
        return build_table(shown, results(a=ours), read_paper()).sections[0].rows[0].cells[1:]

    assert beside("Mamba-1-1.4B", None) == (Cell("OOM"), Cell(verdict="OK"))
    assert beside("Mamba-1-1.4B", 0.5) == (Cell("OOM"), Cell())
    assert beside("BM25", None) == (Cell("51.8", substitute=True), Cell(verdict="FAIL"))


def test_published_rows_have_the_papers_numbers_alone() -> None:
    shown = settings([ResultRow(label="MonoBERT", runs=[]), row("A", "a")], paper="passage-dl19")
    assert shown.metric_keys() == ["t/a"]
    table = build_table(shown, results(a=0.5), read_paper())
    assert table.sections[0].rows[0].cells == (Cell(), Cell("72.3", best_overall=True), Cell())
    assert cells(table)["A"] == Cell("50.0", bold=True, best_ours=True)
    above = build_table(shown, results(a=0.8), read_paper())
    assert above.sections[0].rows[0].cells[1] == Cell("72.3")
    assert cells(above)["A"].best_overall
    assert "Means over 460 queries" in caption(shown, results(a=0.5))


def test_seeds_are_averaged_with_the_standard_deviation_of_a_sample() -> None:
    shown = settings([row("A", "f f@seed1 f@seed2"), row("B", "b")])
    values = results(**{"f": 0.40, "f@seed1": 0.41, "f@seed2": 0.45, "b": 0.42})
    table = build_table(shown, values, read_paper())
    # By hand: mean 0.42; squares of 2, 1 and 3 points over 2 are 7, whose root is 2.6.
    best = {"bold": True, "best_overall": True, "best_ours": True}
    assert cells(table) == {"A": Cell("42.0", spread="2.6", **best), "B": Cell("42.0", **best)}
    assert "mean ± standard deviation over 3 trainings that differ in their seed" in caption(shown, values)
    without = results(**{"f": 0.40, "f@seed1": None, "f@seed2": 0.45, "b": 0.42})
    assert cells(build_table(shown, without, read_paper()))["A"] == Cell("OOM")


def test_a_column_of_several_collections_is_the_mean_of_their_means() -> None:
    shown = settings([row("A", "a")], tests=["x/test", "y/test", "z/test"])
    assert shown.metric_keys() == ["x/test/a", "y/test/a", "z/test/a"]
    values = results(**{"x/test/a": 0.1, "y/test/a": 0.2, "z/test/a": 0.6})
    assert cells(build_table(shown, values, read_paper()))["A"].text == "30.0"
    assert "Semanlink. Mean of 3 collections' means, times 100" in caption(shown, values)


def test_letters_name_the_rows_that_one_is_better_than() -> None:
    shown = settings(
        [first_stage("BM25", "bm25")], [row("A", "a"), row("B", "b"), row("C", "c")], alpha=0.05, test="randomization"
    )
    compared = [
        Compared(0, 2, 1, 0.1, 0.01),
        Compared(0, 3, 1, 0.2, 0.01),
        Compared(0, 3, 2, 0.1, 0.05),
    ]
    values = results(bm25=0.3, a=0.1, b=0.2, c=0.3)
    table = build_table(shown, values, read_paper(), compared)
    assert [row.letter for section in table.sections for row in section.rows] == ["a", "a", "b", "c"]
    assert significant(table) == {"BM25": "", "A": "", "B": "a", "C": "a"}
    worse = build_table(shown, values, read_paper(), [Compared(0, 3, 2, -0.1, 0.04), Compared(0, 2, 1, 0.1, 0.01)])
    assert significant(worse) == {"BM25": "", "A": "", "B": "ac", "C": ""}
    text = caption_of(shown, values, table)
    assert "Raised letters: better than the row of the section with that letter, paired randomization test" in text
    assert "p < 0.05 after Holm's correction" in text


def test_arrows_against_a_baseline() -> None:
    rows = [row("A", "a"), row("B", "b")]
    shown = settings([first_stage("BM25", "bm25")], rows, alpha=0.01, test="t", baseline="BM25")
    compared = [Compared(0, 1, 0, 0.1, 0.001), Compared(0, 2, 0, -0.1, 0.001)]
    table = build_table(shown, results(bm25=0.3, a=0.4, b=0.2), read_paper(), compared)
    assert significant(table) == {"BM25": "", "A": "↑", "B": "↓"}
    assert not any(row.letter for section in table.sections for row in section.rows)
    assert "↑ and ↓: better and worse than BM25, paired t-test over queries, p < 0.01" in caption(
        shown, results(bm25=0.3, a=0.4, b=0.2)
    )


def test_more_rows_than_letters_are_refused() -> None:
    assert letters_of([[0, 1], [2]]) == {0: "a", 1: "b", 2: "a"}
    with pytest.raises(UserError, match="a section has 53 rows"):
        letters_of([list(range(53))])


def test_wrong_paper_columns_are_refused() -> None:
    with pytest.raises(UserError, match=r"'dl19' is not a test set of the paper; known: passage-dev"):
        build_table(settings([row("A", "a")], paper="dl19"), results(a=0.1), read_paper())
    with pytest.raises(UserError, match=r"its metric is nDCG@10, but the paper's passage-dev is MRR@10"):
        build_table(settings([row("A", "a")], paper="passage-dev"), results(a=0.1), read_paper())


def test_missing_metric_and_other_number_of_queries_are_refused() -> None:
    wrong = {"t/a": Result(Path("a.json"), "ok", 460, {"MRR@10": 0.1})}
    with pytest.raises(UserError, match=r"a\.json: has no nDCG@10 \(only MRR@10\); add it to evaluation\.metrics"):
        build_table(settings([row("A", "a")]), wrong, read_paper())
    stale = results(a=0.1) | {"t/b": Result(Path("b.json"), "ok", 459, {"nDCG@10": 0.1})}
    with pytest.raises(UserError, match=r"b\.json: 459 queries, but a\.json has 460"):
        caption(settings([row("A", "a"), row("B", "b")]), stale)


def test_every_number_of_the_paper_has_a_column_and_a_source() -> None:
    paper = read_paper()
    for block in paper.blocks:
        assert block.source
        for known in block.rows:
            assert known.values and set(known.values) <= set(paper.columns)
