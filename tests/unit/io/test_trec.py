"""TREC runs and qrels."""

from __future__ import annotations

import gzip
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ssmrank.errors import UserError
from ssmrank.io import trec
from ssmrank.io.trec import iterate_run, read_qrels, read_run, sort_ranking, write_qrels, write_run


def test_order_is_trec_evals() -> None:
    ranking = [("b", 1.0), ("a", 1.0), ("c", 2.0), ("B", 1.0), ("é", 1.0)]
    assert sort_ranking(ranking) == [("c", 2.0), ("é", 1.0), ("b", 1.0), ("a", 1.0), ("B", 1.0)]
    # Equal in single precision.
    assert sort_ranking([("a", 30.1234), ("b", 30.123399)]) == [("b", 30.123399), ("a", 30.1234)]
    assert sort_ranking([("a", 1e300), ("b", 1e299), ("c", math.nan)])[:2] == [("b", 1e299), ("a", 1e300)]
    assert [document for document, _ in sort_ranking([("a", 0.0), ("b", -0.0)])] == ["b", "a"]


def test_run_is_written_sorted_with_decreasing_scores(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"q1": [("d2", 1.5), ("d1", 1.5), ("d3", 3.0)], "q0": [("d9", -1.0)]}, "tag")
    lines = [line.split() for line in (tmp_path / "run").read_text().splitlines()]
    assert [line[:4] for line in lines] == [
        ["q1", "Q0", "d3", "1"],
        ["q1", "Q0", "d2", "2"],
        ["q1", "Q0", "d1", "3"],
        ["q0", "Q0", "d9", "1"],
    ]
    assert {line[5] for line in lines} == {"tag"}
    scores = [np.float32(line[4]) for line in lines]
    assert scores[0] == 3.0 and scores[1] == 1.5 and scores[3] == -1.0
    assert scores[2] == np.nextafter(np.float32(1.5), np.float32(-np.inf))


def test_many_ties_and_differences_below_float32_are_written_in_order(tmp_path: Path) -> None:
    ranking = [(f"d{n:03}", 20.0 - (n // 10) * 1e-9) for n in reversed(range(100))]
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
    assert read_run(tmp_path / "run") == {"q": [("b", 2.0), ("a", 1.0), ("C", 1.0)]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"q Q0 d 1 2.0", "5 fields, but `qid Q0 docid rank score tag` has 6"),
        (b"q Q0 d 1 high t", "score 'high' is not a number"),
        (b"q Q0 d 1 nan t", "score of query q, document d is NaN"),
        (b"q Q0 a 1 2.0 t", "document a appears twice in query q; keep one line"),
        (b"q Q0 caf\xe9 1 2.0 t", "byte 9 is not UTF-8; convert the file to UTF-8"),
    ],
)
def test_run_errors(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "run"
    path.write_bytes(b"q Q0 a 1 3.0 t\n" + line + b"\n")
    with pytest.raises(UserError) as caught:
        read_run(path)
    assert str(caught.value) == f"{path}:2: {message}"


def outcome(path: Path) -> object:
    """What a reader returns, or its error: reading everything at once, and query by query."""
    found: list[object] = []
    for read in (read_run, lambda path: list(iterate_run(path))):
        try:
            run = read(path)
            found.append(list(run.items()) if isinstance(run, dict) else run)
        except UserError as error:
            found.append(str(error))
    return found


PLAIN = "".join(f"q{n // 40} Q0 d{n % 40} {n} {100 - n / 7:.6g} t\n" for n in range(400)).encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"", b""),
        (b"q5 Q0 d0 ", b"q5\tQ0 d0\t"),
        (b"q5 Q0 d0 ", b"q5  Q0\t\td0 "),
        (b"q5 Q0 d0 ", b"\n \nq5 Q0 d0 "),
        (b"q5 Q0 d0 ", b" q5 Q0 d0 "),
        (b" t\n", b" t\r\n"),
        (b" t\n", b" t \n"),
        (b"q5 Q0 d0 ", b"q5 Q0 d\xc3\xa9 "),
        (b"q5 Q0 d0 ", b"q5 Q0 d\x1c0 "),
        (b"q5 Q0 d0 ", b"q5 Q0 d\xc2\xa00 "),
        (b"q5 Q0 d0 ", b"q5 Q0 d\xe9 "),
        (b"q5 Q0 d0 ", b"q5 Q0 d1 "),
        (b"q5 Q0 d3 ", b"q5 Q0 d1 "),
        (b"q5 ", b"q4 "),
        (b"q5 ", b"q3 "),
        (b"q5 Q0 d0 200 71.4286 t\n", b"q5 Q0 d0 200 71.4286\nt "),
        (b"q5 Q0 d0 200 71.4286 t\n", b"q5 Q0 d0 200 71.4286 t q5 Q0 d0 200 71.4286 t\n"),
        (b"71.4286", b"high"),
        (b"71.4286", b"nan"),
        (b"71.4286", b"-1_0e1"),
        (b"71.4286", b"inf"),
        (b"71.4286", b"71.2857"),
        (b"q9 Q0 d39 399 43 t\n", b"q9 Q0 d39 399 43 t"),
        (b"q9 Q0 d39 399 43 t\n", b"q9 Q0 d39 399 43"),
        (b"q9 Q0 d39 399 43 t\n", b"q9"),
    ],
)
@pytest.mark.parametrize("name", ["run", "run.gz"])
def test_blocks_of_lines_are_read_as_line_by_line(tmp_path: Path, monkeypatch, name: str, old: bytes, new: bytes):
    content = PLAIN.replace(old, new) if old else PLAIN
    assert (content == PLAIN) == (old == new)
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "run.gz" else content)
    with monkeypatch.context() as patch:
        patch.setattr(trec, "_columns", lambda block: None)
        expected = outcome(tmp_path / name)
    for size in (1, 300, 2000, 2**20):
        monkeypatch.setattr(trec, "_BLOCK", size)
        assert outcome(tmp_path / name) == expected


def test_errors_of_a_plain_block_are_those_of_its_lines(tmp_path: Path):
    path = tmp_path / "run"
    lines = PLAIN.decode().splitlines(keepends=True)
    for text, message in (
        ("".join([*lines[:60], lines[45], *lines[60:]]), ":61: document d5 appears twice in query q1; keep one line"),
        ("".join([*lines, lines[45], lines[46]]), ":402: document d5 appears twice in query q1; keep one line"),
        ("".join([*lines[:70], "q1 Q0 x 1 t\n", *lines[70:]]), ":71: 5 fields, but"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_run(path)


def test_the_bytes_written_are_those_of_one_line_after_the_other(tmp_path: Path):
    """A plain implementation: tuples are sorted, each score is lowered below the one before, each line is formatted."""
    random = np.random.default_rng(0)
    ids = [f"d{n}%" for n in range(200)]
    scores: dict[str, list[float]] = {
        "float32": random.standard_normal(200).astype(np.float32).tolist(),
        "ties": random.integers(-3, 3, 200).astype(float).tolist(),
        "close": (20 + 1e-7 * random.standard_normal(200)).tolist(),
        "equal": [1.5] * 200,
        "zeros": random.choice([0.0, -0.0, 1e-45, -1e-45], 200).tolist(),
        "ends": random.choice([math.inf, -math.inf, 3.4028235e38, -3.4028235e38, 0.0], 200).tolist(),
        "falling": np.arange(200.0, 0, -1).tolist(),
        "one": [-0.0],
        "none": [],
    }
    run = {name: list(zip(random.permutation(ids).tolist(), values, strict=False)) for name, values in scores.items()}
    expected = ""
    for query, ranking in run.items():
        last = np.float32(np.inf)
        by_id = sorted(ranking, reverse=True)
        ordered = sorted(by_id, key=lambda pair: trec.single_precision(np.array(-pair[1])))
        for rank, (document, score) in enumerate(ordered, start=1):
            written = np.float32(score)
            with np.errstate(over="ignore"):
                last = written if written < last else np.nextafter(last, np.float32(-np.inf))
            expected += f"{query} Q0 {document} {rank} {last:.9g} 5%s-é\n"
    write_run(tmp_path / "run", run, "5%s-é")
    assert (tmp_path / "run").read_text(encoding="utf-8") == expected


def test_of_several_nans_the_first_in_order_is_named(tmp_path: Path) -> None:
    ranking = [("c", 1.0), ("b", math.nan), ("a", 2.0), ("d", math.nan)]
    with pytest.raises(UserError, match=r"score of query q, document b is NaN; nothing was written"):
        write_run(tmp_path / "run", {"q": ranking}, "tag")


def test_qrels_round_trip(tmp_path: Path) -> None:
    qrels = {"q2": {"d2": 2, "d1": 0}, "q1": {"é": 1}}
    write_qrels(tmp_path / "qrels", qrels)
    assert (tmp_path / "qrels").read_text(encoding="utf-8") == "q2 0 d2 2\nq2 0 d1 0\nq1 0 é 1\n"
    assert read_qrels(tmp_path / "qrels") == qrels


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"q 0 d", "3 fields, but `qid 0 docid grade` has 4"),
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
