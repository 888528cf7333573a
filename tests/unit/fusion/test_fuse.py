"""Fused runs, compared with numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssmrank.cli import main
from ssmrank.config.fusions import FuseSettings
from ssmrank.errors import UserError
from ssmrank.fusion.fuse import Ranking, pool_runs, read_rankings
from ssmrank.fusion.weights import fit_weights, grid
from ssmrank.io.trec import read_run, write_run

Z = FuseSettings(method="z-score", depth=10)


def ranking(**scores: float) -> Ranking:
    return Ranking(list(scores), np.array(list(scores.values()), dtype=np.float64))


def sums(settings: FuseSettings, weights: list[float], *runs: Ranking, only: Ranking | None = None) -> dict[str, float]:
    pools = pool_runs(settings, [{"q": run} for run in runs], {"q": only} if only else None)
    return dict(pools["q"].fused(np.array(weights)))


def test_z_scores_are_added_with_weights() -> None:
    # Both have the z-scores 1 and -1.
    found = sums(Z, [1, 3], ranking(a=9, b=1), ranking(b=0.2, a=0.1))
    assert found == {"a": -2, "b": 2}


def test_a_document_that_a_run_lacks_has_its_lowest_normalised_score() -> None:
    found = sums(Z, [1, 1], ranking(a=3, b=1), ranking(c=7, a=5))
    # a: 1 - 1, b: -1 and the second run's -1, c: the first run's -1 and 1.
    assert found == {"a": 0, "b": -2, "c": 0}


def test_min_max_gives_such_a_document_nothing() -> None:
    settings = FuseSettings(method="min-max", depth=10)
    assert sums(settings, [1, 0.5], ranking(a=4, b=3, c=2), ranking(d=8, b=7)) == {"a": 1, "b": 0.5, "c": 0, "d": 0.5}


def test_reciprocal_ranks() -> None:
    settings = FuseSettings(method="rrf", k=60, depth=10)
    found = sums(settings, [1, 1], ranking(a=9, b=8), ranking(c=1, b=0.5))
    assert found == pytest.approx({"a": 1 / 61, "b": 1 / 62 + 1 / 62, "c": 1 / 61})


def test_only_candidates_count_in_means_and_in_ranks() -> None:
    wide = ranking(z=100, a=3, y=2, b=1)
    assert sums(Z, [1, 0], wide, ranking(a=1, b=2), only=ranking(a=5, b=4)) == {"a": 1, "b": -1}
    rrf = FuseSettings(method="rrf", k=0, depth=10)
    assert sums(rrf, [1, 0], wide, ranking(a=1), only=ranking(a=5, b=4, c=3)) == {"a": 1, "b": 0.5, "c": 0}


def test_a_run_that_says_nothing_of_a_query_moves_nothing() -> None:
    constant = ranking(a=0.1, b=0.1, c=0.1)
    assert sums(Z, [1, 1], ranking(a=3, b=1, c=2), constant) == sums(Z, [1, 1], ranking(a=3, b=1, c=2), ranking())


def test_ties_are_ties_again_when_they_are_read(tmp_path: Path) -> None:
    scores = [("a", 2.5), ("b", 2.5), ("c", 2.5), ("d", 0.1), ("e", 0.0), ("f", 0.0), ("g", -1e30), ("h", -1e30)]
    write_run(tmp_path / "ties.trec", {"q": scores}, "ties")
    assert len({score for _, score in read_run(tmp_path / "ties.trec")["q"]}) == 8
    found = read_rankings(tmp_path / "ties.trec")["q"].scores
    assert found.tolist() == pytest.approx([score for _, score in scores])
    assert len(np.unique(found)) == 4


def test_the_order_of_addition_decides_no_tie() -> None:
    # In float64, 0.1 + 0.2 + 0.3 differs from 0.3 + 0.2 + 0.1.
    pools = pool_runs(
        FuseSettings(method="rrf", k=0, depth=10),
        [{"q": ranking(a=3, b=2, c=1)}, {"q": ranking(b=3, a=2, c=1)}, {"q": ranking(c=3, a=2, b=1)}],
    )
    one, other = dict(pools["q"].fused(np.array([0.1, 0.3, 0.2]))), dict(pools["q"].fused(np.array([0.3, 0.1, 0.2])))
    assert one["a"] != one["b"] and other["a"] != other["b"]
    twice = pool_runs(Z, [{"q": ranking(a=1, b=0)}] * 3)["q"]
    assert dict(twice.fused(np.array([0.1, 0.2, 0.3]))) == dict(twice.fused(np.array([0.3, 0.2, 0.1])))


def test_a_grid_of_weights() -> None:
    assert list(grid(2, 3)) == [(0, 1), (0.5, 0.5), (1, 0)]
    three = list(grid(3, 11))
    assert len(set(three)) == len(three) == 66
    assert all(sum(weights) == pytest.approx(1) and min(weights) >= 0 for weights in three)


def test_weights_are_those_with_the_best_mean_and_of_equal_ones_the_most_alike() -> None:
    # r is the relevant document. The first run is right about q1 by far, the second about q2 by a little.
    first = {"q1": ranking(r=9, x=0), "q2": ranking(x=1, r=0)}
    second = {"q1": ranking(x=9, r=0), "q2": ranking(r=1, y=0.9, x=0)}
    qrels = {"q1": {"r": 1}, "q2": {"r": 1}}
    fitted = fit_weights(pool_runs(Z, [first, second]), qrels, "MRR@10", 5)
    assert fitted.mean == max(fitted.tried.values()) == fitted.tried[fitted.weights]
    best = [weights for weights, mean in fitted.tried.items() if mean == fitted.mean]
    assert fitted.weights == min(best, key=lambda weights: abs(weights[0] - 0.5))
    same = fit_weights(pool_runs(Z, [second, second]), qrels, "MRR@10", 5)
    assert same.weights == (0.5, 0.5)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    write_run(
        tmp_path / "one.trec", {"q1": [("a", 9.0), ("b", 8.0), ("c", 1.0)], "q2": [("a", 1.0), ("b", 0.0)]}, "one"
    )
    write_run(tmp_path / "two.trec", {"q2": [("b", 5.0), ("a", 1.0)], "q1": [("c", 2.0), ("a", 1.0)]}, "two")
    return str(tmp_path / "one.trec"), str(tmp_path / "two.trec")


def run(member: str, settings: dict, *options: str) -> int:
    return main(["fuse", member, "--settings", json.dumps(settings), *options])


def test_the_subcommand_writes_ties_by_the_rule_of_all_runs(runs, tmp_path: Path) -> None:
    output = tmp_path / "my fused.trec"
    options = ("--run", *runs, "--output", str(output))
    assert run("run", {"method": "z-score", "depth": 10}, *options) == 0
    fused = read_run(output)
    write_run(tmp_path / "ties.trec", {"q2": [("a", 0.0), ("b", 0.0)]}, "ties")
    assert [document for document, _ in fused["q2"]] == [doc for doc, _ in read_run(tmp_path / "ties.trec")["q2"]]
    assert list(fused) == ["q1", "q2"] and len(fused["q1"]) == 3


def test_the_subcommand_keeps_the_depth_and_takes_fitted_weights(runs, tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("q1 0 c 1\nq2 0 b 1\n")
    weights, output = tmp_path / "weights.json", tmp_path / "fused.trec"
    grid_settings = {"method": "z-score", "depth": 10, "metric": "MRR@10", "steps": 3}
    fit = ("--run", *runs, "--qrels", str(tmp_path / "qrels"), "--output", str(weights))
    assert run("weights", grid_settings, *fit) == 0
    assert json.loads(weights.read_text())["weights"] == [0, 1]
    options = ("--run", *runs, "--weights", str(weights), "--output", str(output))
    assert run("run", {"method": "z-score", "depth": 2}, *options) == 0
    fused = read_run(output)
    assert [fused[query][0][0] for query in ("q1", "q2")] == ["c", "b"]
    assert len(fused["q1"]) == 2


def test_a_model_that_did_not_fit_in_memory_has_no_fused_run(runs, tmp_path: Path) -> None:
    (tmp_path / "oom.trec").write_text("# OOM\n")
    (tmp_path / "qrels").write_text("q1 0 c 1\n")
    both = ("--run", runs[0], str(tmp_path / "oom.trec"))
    grid_settings = {"method": "z-score", "depth": 10, "metric": "MRR@10", "steps": 3}
    weights, output = tmp_path / "weights.json", tmp_path / "fused.trec"
    assert run("weights", grid_settings, *both, "--qrels", str(tmp_path / "qrels"), "--output", str(weights)) == 0
    assert run("run", {"method": "rrf", "depth": 10}, *both, "--weights", str(weights), "--output", str(output)) == 0
    assert output.read_text() == "# OOM\n"
    assert (
        run("run", {"method": "rrf", "depth": 10}, "--run", *runs, "--weights", str(weights), "--output", str(output))
        == 2
    )


@pytest.mark.parametrize(
    ("second", "settings", "said"),
    [
        ("q9 Q0 a 1 2.0 t\n", {}, "no query in common"),
        ("q1 Q0 a 1 -inf t\n", {}, "document a is -inf"),
        ("q1 Q0 a 1 2.0 t\n", {"weights": [1, 2, 3]}, "3 weights for 2 runs"),
        ("q1 Q0 a 1\n", {}, "two.trec:1: 4 fields"),
    ],
)
def test_what_cannot_be_fused_is_one_line(runs, tmp_path: Path, capsys, second: str, settings: dict, said: str) -> None:
    Path(runs[1]).write_text(second)
    output = tmp_path / "fused.trec"
    assert run("run", {"method": "z-score", "depth": 10} | settings, "--run", *runs, "--output", str(output)) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not output.exists()


def test_qrels_of_other_queries_fit_no_weights() -> None:
    with pytest.raises(UserError, match=r"^the run: the qrels have none of its queries"):
        fit_weights(pool_runs(Z, [{"q": ranking(a=1)}] * 2), {"p": {"a": 1}}, "MRR@10", 2)
