"""The figure of quality against tokens, from files written by hand."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from ssmrank.cli import main


@pytest.fixture
def settings(tmp_path: Path) -> dict:
    """Two models: one after two trainings on two tests, one with two seeds of which one test is tiny."""

    def file(name: str, content: dict) -> str:
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name)

    def metrics(name: str, value: float, status: str = "ok") -> str:
        mean = {"nDCG@10": value} if status == "ok" else {}
        return file(f"{name}.json", {"status": status, "queries": 3, "mean": mean})

    def tokens(name: str, pairs: int, whole: int, computed: int, shortened: int, order: str) -> str:
        counts = {"pairs": pairs, "tokens": whole, "computed": computed, "shortened": shortened}
        return file(f"{name}.json", counts | {"order": order, "collection": "c"})

    one = [tokens("t1", 10, 1000, 500, 5, "document-first"), tokens("t2", 30, 1800, 900, 1, "document-first")]
    two = [tokens("t3", 10, 1900, 900, 10, "document-document-query"), tokens("t4", 30, 3300, 1100, 5, "x")]
    gone = [file("t5.json", {"status": "oom"})] * 2
    return {
        "title": "Mean of A, B",
        "metric": "nDCG@10",
        "first_stage": "BM25",
        "first_stage_metrics": [metrics("b1", 0.3), metrics("b2", 0.5)],
        "rows": [
            {
                "model": "Mamba $x$",
                "training": "document first",
                "metrics": [[metrics("a1", 0.4), metrics("a2", 0.6)]],
                "tokens": one,
            },
            {
                "model": "Mamba $x$",
                "training": "document twice",
                "metrics": [[metrics("c1", 0.4), metrics("c2", 0.7)], [metrics("d1", 0.5), metrics("d2", 0.7)]],
                "tokens": two,
            },
            {
                "model": "Large",
                "training": "document first",
                "metrics": [[metrics("e1", 0.0, "oom"), metrics("e2", 0.0, "oom")]],
                "tokens": gone,
            },
        ],
    }


def test_points_by_hand(settings: dict, tmp_path: Path) -> None:
    outputs = [str(tmp_path / f"figure.{form}") for form in ("svg", "pdf", "csv")]
    assert main(["figure", "tokens", "--settings", json.dumps(settings), "--output", *outputs]) == 0
    with (tmp_path / "figure.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    # 2,800 tokens of 40 pairs, half of them saved; 5,200 of which 2,000 are computed.
    first = ["Mamba $x$", "document first", "document-first", "nDCG@10", "50.00", "", "70.0", "35.0", "50.0", "15.0"]
    twice = ["Mamba $x$", "document twice", "document-document-query", "nDCG@10", "57.50", "3.54", "130.0", "50.0"]
    bm25 = ["BM25", "", "", "nDCG@10", "40.00", "", "", "", "", ""]
    assert [list(row.values()) for row in rows] == [bm25, first, [*twice, "61.5", "37.5"]]
    drawn = (tmp_path / "figure.svg").read_text()
    for text in ("Mamba $x$", "document first", "document twice", "BM25", "nDCG@10"):
        assert re.search(rf">{re.escape(text)}<", drawn), text
    assert ">Mean of A, B. Hollow" in drawn
    assert "Large" not in drawn
    before = {path: Path(path).read_bytes() for path in outputs}
    assert main(["figure", "tokens", "--settings", json.dumps(settings), "--output", *outputs]) == 0
    assert before == {path: Path(path).read_bytes() for path in outputs}


def test_what_cannot_be_drawn_is_one_line(settings: dict, tmp_path: Path, capsys) -> None:
    def said(changed: dict) -> str:
        output = tmp_path / "figure.svg"
        assert main(["figure", "tokens", "--settings", json.dumps(changed), "--output", str(output)]) == 2
        assert not output.exists()
        return capsys.readouterr().err

    assert "has no MRR@10; add it to evaluation.metrics" in said(settings | {"metric": "MRR@10"})
    assert "every reranker of the table ran out of memory" in said(settings | {"rows": settings["rows"][2:]})
    missing = [settings["rows"][0] | {"tokens": [str(tmp_path / "absent.json")]}]
    assert "absent.json" in (line := said(settings | {"rows": missing})) and "ssmrank measure tokens" in line
    wrong = [settings["rows"][0] | {"tokens": settings["rows"][0]["metrics"][0]}]
    assert "a1.json" in said(settings | {"rows": wrong})
