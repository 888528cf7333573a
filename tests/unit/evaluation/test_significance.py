"""Tests of significance, compared with SciPy and with cases worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ssmrank.cli import main
from ssmrank.config.table_settings import ComparedColumn, ComparedRow, Comparison, SignificanceSettings
from ssmrank.evaluation.significance import holm, mean_difference, randomization_test, t_test

RANDOM = np.random.default_rng(7)


def test_every_permutation_of_few_queries_as_scipy() -> None:
    differences = RANDOM.normal(0.3, 1, size=(5, 11))
    found = randomization_test([differences], permutations=5000, seed=1)
    for own, difference in zip(found, differences, strict=True):
        expected = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert own == pytest.approx(expected.pvalue, abs=1e-12)


def test_drawn_permutations_come_near_the_exact_value_and_are_never_0() -> None:
    differences = RANDOM.normal(0.25, 1, size=(3, 16))
    exact = randomization_test([differences], permutations=1 << 16, seed=1)
    drawn = randomization_test([differences], permutations=40_000, seed=1)
    # Three standard errors of a share among 40,000 draws.
    assert np.all(np.abs(drawn - exact) < 3 * np.sqrt(exact * (1 - exact) / 40_000) + 1e-4)
    clear = randomization_test([np.full((1, 100), 0.5)], permutations=999, seed=1)
    assert clear[0] == 1 / 1000


def test_ties_by_rounding_count() -> None:
    # Differences of 0.1 in every query: the observed mean is the largest, and 2 of the 2^4 assignments reach it.
    assert randomization_test([np.full((1, 4), 0.1)], 100, 1)[0] == 2 / 16
    assert randomization_test([np.zeros((1, 4))], 100, 1)[0] == 1


def test_the_t_test_is_scipys() -> None:
    differences = RANDOM.normal(0.2, 1, size=(6, 30))
    assert t_test([differences]) == pytest.approx(stats.ttest_1samp(differences, 0, axis=1).pvalue)
    assert t_test([np.zeros((1, 5))]) == [1.0]
    assert t_test([np.full((1, 5), 0.5)]) == [0.0]
    assert t_test([np.full((1, 1), 0.5)]) == [1.0]


def test_over_two_collections_the_t_test_is_welchs() -> None:
    # The mean of two means is 0 if the first is minus the second: Welch's test of x against -y.
    x, y = RANDOM.normal(0.3, 1, size=(4, 20)), RANDOM.normal(0.1, 3, size=(4, 9))
    expected = stats.ttest_ind(x, -y, axis=1, equal_var=False).pvalue
    assert t_test([x, y]) == pytest.approx(expected)


def test_collections_count_the_same_whatever_their_queries() -> None:
    x, y = np.array([[1.0, 1.0, 1.0, 1.0]]), np.array([[-0.5, -0.5]])
    assert mean_difference([x, y]) == pytest.approx([0.25])
    # 64 assignments: the mean of means is (k/4) - (m/4) for sums k of four and m of two halves. All are as far from 0
    # as 0.25, except those that are nearer, which are counted by hand below.
    further = 0
    for signs in range(64):
        bits = [1 if signs >> place & 1 else -1 for place in range(6)]
        further += abs(sum(bits[:4]) / 8 + sum(bits[4:]) * 0.5 / 4) >= 0.25 - 1e-12
    assert randomization_test([x, y], 100, 1)[0] == further / 64


def test_holm() -> None:
    # 0.01 x 4, 0.02 x 3, 0.03 x 2, and never below the value before.
    assert holm(np.array([0.03, 0.01, 0.5, 0.02])) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm(np.array([0.6, 0.9])) == pytest.approx([1.0, 1.0])
    assert list(holm(np.array([]))) == []


def settings(rows: list[list[str]], families: list[list[tuple[int, int]]], tests: list[str]) -> SignificanceSettings:
    return SignificanceSettings(
        columns=[ComparedColumn(metric="nDCG@10", tests=tests)],
        rows=[ComparedRow(runs=runs) for runs in rows],
        families=[[Comparison(row=row, other=other) for row, other in family] for family in families],
    )


def write(folder: Path, values: dict[str, list[float]]) -> None:
    for key, own in values.items():
        (folder / f"{key}.json").parent.mkdir(parents=True, exist_ok=True)
        queries = {f"q{number}": value for number, value in enumerate(own)}
        (folder / f"{key}.json").write_text(json.dumps({"nDCG@10": queries} if own else {}))


def lines(folder: Path, wanted: SignificanceSettings) -> list[dict[str, str]]:
    words = ["--settings", wanted.model_dump_json(), "--per-query", str(folder), "--output", str(folder / "s.csv")]
    assert main(["table", "significance", *words]) == 0
    return list(csv.DictReader((folder / "s.csv").open()))


def test_the_command_averages_seeds_and_corrects_within_a_family(tmp_path: Path) -> None:
    a, b = [0.9, 0.8, 0.9, 0.7, 0.9], [0.5, 0.6, 0.7, 0.6, 0.6]
    c1, c2 = [0.1, 0.0, 0.3, 0.2, 0.1], [0.3, 0.2, 0.1, 0.2, 0.1]
    write(tmp_path, {"t/s/a": a, "t/s/b": b, "t/s/r/f/c": c1, "t/s/r/f@seed2/c": c2, "t/s/oom": []})
    rows = [["a"], ["b"], ["r/f/c", "r/f@seed2/c"], ["oom"]]
    first, second, third = lines(tmp_path, settings(rows, [[(1, 0), (2, 0), (3, 0)], [(2, 1)]], ["t/s"]))
    assert (first["system"], first["baseline"], first["test"], first["queries"]) == ("b", "a", "t/s", "5")
    assert second["system"] == third["system"] == "r/f/c"
    c = np.mean([c1, c2], axis=0)
    expected = [stats.ttest_rel(b, a).pvalue, stats.ttest_rel(c, a).pvalue, stats.ttest_rel(c, b).pvalue]
    assert [float(line["p_t"]) for line in (first, second, third)] == pytest.approx(expected, rel=1e-5)
    assert [float(line["holm_t"]) for line in (first, second, third)] == pytest.approx(
        [max(expected[0], 2 * expected[1]), 2 * expected[1], expected[2]], rel=1e-5
    )
    # All five differences have one sign: 2 of 32 assignments, and twice that in the family of two.
    assert [float(line["holm_randomization"]) for line in (first, second, third)] == [0.125, 0.125, 0.0625]
    assert float(third["difference"]) == pytest.approx(np.mean(c) - np.mean(b), abs=1e-6)


def test_other_queries_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path, {"t/s/a": [0.1, 0.2], "t/s/b": [0.1, 0.2, 0.3]})
    wanted = settings([["a"], ["b"]], [[(1, 0)]], ["t/s"])
    words = ["--settings", wanted.model_dump_json(), "--per-query", str(tmp_path), "--output", str(tmp_path / "s.csv")]
    assert main(["table", "significance", *words]) == 2
    assert "1 queries are in only one of them, such as q2; evaluate both again" in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists()
