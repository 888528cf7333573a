"""The columns of rerankers' costs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from ssmrank.cli import main
from ssmrank.reporting.costs import SPEED_TITLES, TITLES, read_costs
from ssmrank.reporting.delimited import to_csv
from ssmrank.reporting.latex import to_latex
from ssmrank.reporting.markdown import to_markdown
from ssmrank.reporting.table import Cell, Column, ResultTable, Row, RowGroup


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    """The file of `ssmrank measure costs` for two trained models, one of them pretrained here and trained twice."""
    pretraining = {
        "parameters": {"parameters": 6_178_048, "non_embedding_parameters": 3_949_312},
        "curve": {"tokens": 209_900_000},
    }
    (tmp_path / "pretraining.json").write_text(json.dumps(pretraining))
    for name, seconds in (("first", 30.0), ("second", 33.0)):
        (tmp_path / name).mkdir()
        outcome = {"status": "ok", "seconds": seconds, "device": "GPU X"}
        (tmp_path / name / "outcome.json").write_text(json.dumps(outcome))
    whole = {"pairs_per_second": 2000.4}
    facts = {"pairs": 46_600, "collection": "semanlink", "device": "GPU X", "precision": "bf16", "whole": whole}
    (tmp_path / "causal.json").write_text(json.dumps(facts | {"reuse": {"pairs_per_second": 20_345.2}}))
    (tmp_path / "encoder.json").write_text(json.dumps(facts | {"reuse": None}))
    folders = [str(tmp_path / name) for name in ("first", "second")]
    causal, encoder = (str(tmp_path / f"{name}.json") for name in ("causal", "encoder"))
    rows = [
        {"run": "top/t/one", "checkpoints": folders, "pretrained": str(tmp_path), "speed": causal},
        {"run": "top/t/two", "checkpoints": folders[:1], "pretrained": None, "speed": encoder},
    ]
    assert (
        main(["measure", "costs", "--settings", json.dumps({"rows": rows}), "--output", str(tmp_path / "costs.json")])
        == 0
    )
    return tmp_path / "costs.json"


def test_texts_by_hand(costs: Path) -> None:
    read = read_costs(costs)
    assert read.of(["top/t/one", "top/t@seed43/one"]) == ("6.2M (3.95M)", "210M", "32 s", "20,345", "2,000")
    assert read.of(["top/t/two"]) == ("", "", "30 s", "", "2,000")
    assert read.of(["bm25"]) == read.of([]) == ("",) * 5
    assert "on GPU X" in read.sentence
    assert "46,600 pairs of semanlink" in read.sentence


def test_columns_stand_before_the_values(costs: Path) -> None:
    read = read_costs(costs)
    rows = tuple(
        Row(name, "D", "6M", "BM25 top-100", "titles", (Cell("40.0"),), costs=read.of([f"top/t/{name}"]))
        for name in ("one", "two")
    )
    table = ResultTable("Costs.", "", (Column("Tags", "nDCG@10"),), (RowGroup("Here", rows),), costs=read.titles)
    header, line, _ = csv.reader(io.StringIO(to_csv(table)))
    assert header[5:] == ["length", *TITLES, *SPEED_TITLES, "Tags nDCG@10"]
    assert line[5:] == ["titles", "6.2M (3.95M)", "210M", "32 s", "20,345", "2,000", "40.0"]
    latex = to_latex(table)
    assert "\\begin{tabular}{@{}llllrrrrrr@{\\hspace{1.2em}}}" in latex
    assert "Length & Parameters & Tokens & Training & pairs/s & whole & Tags \\\\" in latex
    assert "titles & 6.2M (3.95M) & 210M & 32 s & 20,345 & 2,000 & 40.0 \\\\" in latex
    assert "titles & -- & -- & 30 s & -- & 2,000 & 40.0 \\\\" in latex
    assert "\\multicolumn{10}{@{}l}{\\textit{Here}}" in latex
    markdown = to_markdown(table).splitlines()
    assert markdown[2].endswith("| Length | Parameters | Tokens | Training | pairs/s | whole | Tags nDCG@10 |")
    assert len({line.count("|") for line in markdown[2:]}) == 1


def test_without_a_measurement_of_speed(costs: Path, tmp_path: Path) -> None:
    row = {"run": "r", "checkpoints": [str(tmp_path / "first")], "pretrained": str(tmp_path), "speed": None}
    assert (
        main(["measure", "costs", "--settings", json.dumps({"rows": [row]}), "--output", str(tmp_path / "c.json")]) == 0
    )
    read = read_costs(tmp_path / "c.json")
    assert read.titles == TITLES
    assert read.of(["r"]) == ("6.2M (3.95M)", "210M", "30 s")
    assert "pairs/s" not in read.sentence


def test_a_file_that_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    row = {"run": "r", "checkpoints": [str(tmp_path)], "pretrained": None, "speed": "x"}
    assert (
        main(["measure", "costs", "--settings", json.dumps({"rows": [row]}), "--output", str(tmp_path / "c.json")]) == 2
    )
    assert f"{tmp_path}/outcome.json: cannot be read" in capsys.readouterr().err
