from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from ssmrank.errors import UserError
from ssmrank.io.pairs import Pair, Pairs, ScoreTexts, pairs_of, read_pairs, with_remainder, write_pairs
from ssmrank.io.trec import read_run, write_run


def lines(queries: int, documents: int, *, ties: bool, mixed: bool) -> str:
    """Lines of a run; ties: few different scores; mixed: shuffled, so that a query's lines are not together."""
    random = np.random.default_rng(0)
    written = []
    for query in range(queries):
        for document in random.permutation(documents).tolist():
            score = random.integers(-2, 3) if ties else random.standard_normal()
            written.append(f"q{query} Q0 d{document} 1 {score} tag\n")
    if mixed:
        written = random.permutation(written).tolist()
    return "".join(written)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", ["run", "run.gz"])
@pytest.mark.parametrize("depth", [3, 1000])
def test_pairs_of_a_file_are_those_of_the_run_in_it(tmp_path: Path, ties: bool, mixed: bool, name: str, depth: int):
    content = lines(30, 70, ties=ties, mixed=mixed).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "run.gz" else content)
    expected, found = pairs_of(read_run(tmp_path / name), depth), read_pairs(tmp_path / name, depth)
    assert list(found) == list(expected) and found.queries == expected.queries
    assert sorted(found.documents) == sorted(expected.documents)


def test_ties_of_a_file_go_by_id_in_single_precision(tmp_path: Path):
    (tmp_path / "run").write_text("q Q0 a 1 30.1234 t\nq Q0 b 2 30.123399 t\nq Q0 c 3 30.123 t\nq Q0 d 4 30.123 t\n")
    assert [pair.document for pair in read_pairs(tmp_path / "run", 3)] == ["b", "a", "d"]


def test_a_file_of_ordered_lines_is_read_in_their_order(tmp_path: Path):
    (tmp_path / "run").write_text("b Q0 y 1 3 t\nb Q0 x 2 1e-3 t\na Q0 z 1 inf t\na Q0 y 2 -inf t\n")
    assert list(read_pairs(tmp_path / "run", 5)) == [Pair("b", "y"), Pair("b", "x"), Pair("a", "z"), Pair("a", "y")]
    assert list(read_pairs(tmp_path / "run", 1)) == [Pair("b", "y"), Pair("a", "z")]
    (tmp_path / "run").write_text("")
    assert list(read_pairs(tmp_path / "run", 5)) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q7 Q0 d3 1 0.5 t", ":601: document d3 appears twice in query q7; keep one line"),
        ("q7 Q0 d3 1 nan t", ":601: score of query q7, document d3 is NaN"),
        ("q7 Q0 d3 1 t", ":601: 5 fields, but"),
    ],
)
def test_errors_are_those_of_reading_the_run(tmp_path: Path, line: str, message: str):
    (tmp_path / "run").write_text(lines(30, 20, ties=True, mixed=True) + line + "\n")
    with pytest.raises(UserError, match=message):
        read_pairs(tmp_path / "run", 5)


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).standard_normal(600),
        np.random.default_rng(1).integers(-2, 3, 600),
        np.random.default_rng(1).choice([0.0, -0.0, 1e-45, -1e-45, math.inf, -math.inf, 3.4e38], 600),
        np.tile(np.arange(20.0, 0, -1), 30),
    ],
    ids=["different", "ties", "ends", "falling"],
)
def test_the_bytes_written_are_those_of_the_run(tmp_path: Path, values: np.ndarray):
    pairs = Pairs.of([(f"q{query}", f"d{document}") for query in range(30) for document in range(20)])
    scores = values.astype(np.float32)
    run: dict[str, list[tuple[str, float]]] = {}
    for pair, score in zip(pairs, scores.tolist(), strict=True):
        run.setdefault(pair.query, []).append((pair.document, score))
    write_run(tmp_path / "run", run, "5%s-é")
    write_pairs(tmp_path / "pairs", pairs, scores, "5%s-é")
    assert (tmp_path / "pairs").read_bytes() == (tmp_path / "run").read_bytes()
    # The same with the texts of some scores made before.
    texts, first = ScoreTexts(450), pairs.ranks < 15
    for places in np.array_split(np.random.default_rng(2).permutation(450)[:400], 3):
        texts.add(places, scores[first][places])
    write_pairs(tmp_path / "prepared", pairs, scores, "5%s-é", texts.of(first))
    assert (tmp_path / "prepared").read_bytes() == (tmp_path / "run").read_bytes()


def test_what_is_not_reranked_stays_below_in_its_order(tmp_path: Path):
    (tmp_path / "run").write_text("".join(f"q{q} Q0 d{d} 1 {9 - d} t\n" for q in range(2) for d in range(5 + q)))
    pairs = read_pairs(tmp_path / "run")
    first = pairs.ranks < 3
    assert pairs.ranks.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]
    scores = with_remainder(pairs, first, np.float32([0.5, -1e-3, 0.5, -7.0, -7.0, 3e38]))
    write_pairs(tmp_path / "out", pairs, scores, "t")
    run = {query: [document for document, _ in ranking] for query, ranking in read_run(tmp_path / "out").items()}
    assert run == {"q0": ["d2", "d0", "d1", "d3", "d4"], "q1": ["d2", "d1", "d0", "d3", "d4", "d5"]}


def test_pairs_are_the_first_documents_of_each_query():
    run = {"q2": [("a", 3.0), ("b", 2.0), ("c", 1.0)], "q1": [("c", 1.0)]}
    assert list(pairs_of(run, 2)) == [Pair("q2", "a"), Pair("q2", "b"), Pair("q1", "c")]


def test_pairs_of_a_part_keep_their_ids_and_order():
    pairs = Pairs.of([("q2", "b"), ("q2", "a"), ("q1", "b"), ("q3", "c")])
    assert list(pairs) == [Pair("q2", "b"), Pair("q2", "a"), Pair("q1", "b"), Pair("q3", "c")]
    chosen = pairs.at(np.array([1, 3]))
    assert (chosen.queries, chosen.documents) == (["q2", "q3"], ["a", "c"])
    assert list(chosen) == [Pair("q2", "a"), Pair("q3", "c")] and chosen[1] == Pair("q3", "c")
    assert list(Pairs.of([])) == [] and len(Pairs.of([])) == 0
