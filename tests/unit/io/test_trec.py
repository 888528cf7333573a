"""TREC runs and qrels."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ssmrank.errors import UserError
from ssmrank.io.trec import read_qrels, read_run, sort_ranking, write_qrels, write_run


def test_order_is_score_then_document() -> None:
    ranking = [("b", 1.0), ("a", 1.0), ("c", 2.0), ("B", 1.0)]
    assert sort_ranking(ranking) == [("c", 2.0), ("B", 1.0), ("a", 1.0), ("b", 1.0)]


def test_run_is_written_sorted_with_decreasing_scores(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"q1": [("d2", 1.5), ("d1", 1.5), ("d3", 3.0)], "q0": [("d9", -1.0)]}, "tag")
    lines = [line.split() for line in (tmp_path / "run").read_text().splitlines()]
    assert [line[:4] for line in lines] == [
        ["q1", "Q0", "d3", "1"],
        ["q1", "Q0", "d1", "2"],
        ["q1", "Q0", "d2", "3"],
        ["q0", "Q0", "d9", "1"],
    ]
    assert {line[5] for line in lines} == {"tag"}
    scores = [np.float32(line[4]) for line in lines]
    assert scores[0] == 3.0 and scores[1] == 1.5 and scores[3] == -1.0
    assert scores[2] == np.nextafter(np.float32(1.5), np.float32(-np.inf))


def test_many_ties_and_differences_below_float32_keep_the_order(tmp_path: Path) -> None:
    ranking = [(f"d{n:03}", 20.0 - (n // 10) * 1e-9) for n in range(100)]
    write_run(tmp_path / "run", {"q": ranking}, "tag")
    scores = [np.float32(line.split()[4]) for line in (tmp_path / "run").read_text().splitlines()]
    assert all(a > b for a, b in pairwise(scores))
    assert [document for document, _ in read_run(tmp_path / "run")["q"]] == [document for document, _ in ranking]


def test_nan_score_is_named_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"score of query q, document d is NaN; nothing was written"):
        write_run(tmp_path / "run", {"q": [("d", math.nan)]}, "tag")
    assert not list(tmp_path.iterdir())


def test_run_is_read_by_score_not_by_rank(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q Q0 a 1 1.0 t\n\nq Q0 b 2 2.0 t\nq Q0 C 3 1.0 t\n")
    assert read_run(tmp_path / "run") == {"q": [("b", 2.0), ("C", 1.0), ("a", 1.0)]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"q Q0 d 1 2.0", "5 fields where `qid Q0 docid rank score tag` has 6"),
        (b"q Q0 d 1 high t", "score 'high' is not a number"),
        (b"q Q0 d 1 nan t", "score of query q, document d is NaN"),
        (b"q Q0 a 1 2.0 t", "document a stands twice in query q; keep one line"),
        (b"q Q0 caf\xe9 1 2.0 t", "byte 9 is not UTF-8; convert the file to UTF-8"),
    ],
)
def test_run_errors(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "run"
    path.write_bytes(b"q Q0 a 1 3.0 t\n" + line + b"\n")
    with pytest.raises(UserError) as caught:
        read_run(path)
    assert str(caught.value) == f"{path}:2: {message}"


def test_qrels_round_trip(tmp_path: Path) -> None:
    qrels = {"q2": {"d2": 2, "d1": 0}, "q1": {"é": 1}}
    write_qrels(tmp_path / "qrels", qrels)
    assert (tmp_path / "qrels").read_text(encoding="utf-8") == "q2 0 d2 2\nq2 0 d1 0\nq1 0 é 1\n"
    assert read_qrels(tmp_path / "qrels") == qrels


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"q 0 d", "3 fields where `qid 0 docid grade` has 4"),
        (b"q 0 d 1.5", "grade '1.5' is not a whole number"),
        (b"q 0 \xff 1", "byte 5 is not UTF-8; convert the file to UTF-8"),
    ],
)
def test_qrels_errors(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "qrels"
    path.write_bytes(b"q 0 a 1\n" + line + b"\n")
    with pytest.raises(UserError) as caught:
        read_qrels(path)
    assert str(caught.value) == f"{path}:2: {message}"


@pytest.mark.parametrize("read", [read_run, read_qrels])
def test_missing_file(tmp_path: Path, read) -> None:
    with pytest.raises(UserError, match="none: cannot read: No such file"):
        read(tmp_path / "none")
