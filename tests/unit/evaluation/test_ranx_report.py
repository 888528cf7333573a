"""Comparisons by ranx itself: its values are those of `ssmrank evaluate`, its tests are ours where we have them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssmrank.cli import main
from ssmrank.config.comparison_settings import deepest, ranx_metric
from ssmrank.evaluation.metrics import evaluate
from ssmrank.evaluation.significance import t_test
from ssmrank.io.trec import Qrels, Run, read_run, write_qrels

METRICS = ["nDCG@10", "nDCG", "MRR@10", "RR(rel=2)@10", "MAP", "R@3", "P@5", "Success@1", "Rprec"]
NAMES = ["ndcg@10", "ndcg", "mrr@10", "mrr@10-l2", "map", "recall@3", "precision@5", "hit_rate@1", "r-precision"]


def drawn() -> tuple[Qrels, dict[str, Run]]:
    """20 queries, one without a relevant document, and two runs with ties, one of which lacks a query."""
    draw = random.Random(7)
    documents = [f"d{number}" for number in range(12)]
    qrels = {f"q{query}": {one: draw.randint(-2, 2) for one in draw.sample(documents, 8)} for query in range(20)}
    qrels["q3"] = {"d1": 0, "d2": -1}
    runs = {
        label: {
            # A grade and noise, in whole numbers and so with ties; 0.1 + 0.2 and 0.3 are equal in single precision.
            query: [
                (one, draw.choice([0.3, 0.1 + 0.2]) + int(judged.get(one, 0) + draw.gauss(0, noise))) for one in found
            ]
            for query, judged in qrels.items()
            for found in [draw.sample(documents, 10)]
        }
        for label, noise in (("near", 0.3), ("far = away", 6.0))
    }
    del runs["near"]["q5"]
    runs["near"]["unjudged"] = [("d1", 1.0)]
    return qrels, runs


def write(folder: Path, qrels: Qrels, runs: dict[str, Run]) -> list[str]:
    """The options that name the files; the scores are written as they are, with their ties."""
    write_qrels(folder / "qrels.txt", qrels)
    words = []
    for number, (label, run) in enumerate(runs.items()):
        lines = [f"{query} Q0 {one} 1 {score!r} t\n" for query, pairs in run.items() for one, score in pairs]
        (folder / f"{number}.trec").write_text("".join(lines))
        words.append(f"{label}={folder / f'{number}.trec'}")
    return ["--qrels", str(folder / "qrels.txt"), "--run", *words]


COMPARE = """
import json, sys
from ssmrank.cli import main
folder, metrics, tests, *options = sys.argv[1:]
for name in tests.split():
    settings = json.dumps({"metrics": json.loads(metrics), "test": name.rstrip("+"), "permutations": 500})
    files = ["--output", f"{folder}/{name}.txt", "--json", f"{folder}/{name}.json"]
    assert main(["table", "comparison", "--settings", settings, *options, *files]) == 0
"""
"""One process for all comparisons, because ranx compiles in each."""


@pytest.mark.slow  # ranx compiles
@pytest.mark.timeout(900)
def test_ranx_gives_our_values_and_our_t_test(tmp_path: Path) -> None:
    qrels, runs = drawn()
    options = write(tmp_path, qrels, runs)
    options += [f"twin={tmp_path / '1.trec'}"]
    words = [sys.executable, "-c", COMPARE, str(tmp_path), json.dumps(METRICS), "student fisher fisher+ tukey"]
    done = subprocess.run([*words, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "it compiles" in done.stderr and "Warning" not in done.stderr
    reports = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("student", "fisher", "tukey")}

    ours = {label: evaluate(qrels, read_run(tmp_path / f"{number}.trec"), METRICS) for number, label in enumerate(runs)}
    for report in reports.values():
        assert report["metrics"] == NAMES and report["model_names"] == [*runs, "twin"]
        for label, values in ours.items():
            expected = dict(zip(NAMES, values.mean().values(), strict=True))
            assert report[label]["scores"] == pytest.approx(expected, abs=1e-9)

    near, far = ours.values()
    for metric, name in zip(METRICS, NAMES, strict=True):
        difference = np.array([[near.per_query[metric][one] - far.per_query[metric][one] for one in qrels]])
        p = reports["student"]["near"]["comparisons"]["far = away"][name]
        assert p == pytest.approx(t_test([difference])[0], abs=1e-6)
        wins = reports["student"]["near"]["win_tie_loss"]["far = away"][name]
        assert wins["W"] == (difference > 1e-12).sum() and wins["L"] == (difference < -1e-12).sum()
        # Equal runs: Student's test divides 0 by 0.
        assert reports["student"]["twin"]["comparisons"]["far = away"][name] is None
        assert reports["fisher"]["twin"]["comparisons"]["far = away"][name] == 1
    assert reports["fisher"] == json.loads((tmp_path / "fisher+.json").read_text())
    table = (tmp_path / "student.txt").read_text().splitlines()
    letter, label, value, *_ = table[2].split()
    assert (letter, label) == ("a", "near") and value.endswith("ᵇᶜ")
    assert float(value.removesuffix("ᵇᶜ")) == pytest.approx(near.mean()["nDCG@10"], abs=5e-5)
    assert reports["student"]["near"]["comparisons"]["far = away"]["ndcg@10"] < 0.05


def test_names_of_metrics() -> None:
    assert [ranx_metric(name) for name in METRICS] == NAMES
    assert deepest(["MRR@100", "nDCG@10"]) == 100
    assert deepest(["MRR@100", "Rprec"]) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metrics": ["RBP(p=0.8)"]}, "metrics: ranx does not compute RBP(p=0.8) as ir_measures does; it has nDCG, RR"),
        ({"metrics": ["P(judged_only=True)@5"]}, "metrics: ranx does not compute P(judged_only=True)@5"),
        ({"metrics": ["ndgc@10"]}, "metrics: unknown metric 'ndgc@10'; did you mean 'nDCG@10'?"),
        ({"metrics": ["MRR@10", "RR@10"]}, "metrics: MRR@10 and RR@10 are the same metric"),
        ({"metrics": ["MRR@10"], "test": "wilcoxon"}, "test: "),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, capsys, settings: dict[str, object], said: str) -> None:
    options = write(tmp_path, *drawn())
    line = refused(tmp_path, capsys, json.dumps(settings), options)
    assert line.startswith("ssmrank table comparison: error: --settings: ") and said in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda words: words[:-1], "1 runs to compare; give two or more"),
        (lambda words: [*words[:-1], "far.trec"], "--run 'far.trec': write it as LABEL=FILE"),
        (lambda words: [*words, words[-1]], "another run has the label 'far = away' too; rename one"),
        (lambda words: [*words[:-1], f"metrics={words[-1].rpartition('=')[2]}"], "cannot have the label 'metrics'"),
        (lambda words: words + [f"r{number}={words[-1].rpartition('=')[2]}" for number in range(25)], "at most 26"),
    ],
)
def test_wrong_runs_are_one_line(tmp_path: Path, capsys, change, said: str) -> None:
    options = change(write(tmp_path, *drawn()))
    assert said in refused(tmp_path, capsys, '{"metrics": ["nDCG@10"]}', options)


def test_runs_without_results_and_models_out_of_memory(tmp_path: Path, capsys) -> None:
    options = write(tmp_path, *drawn())
    (tmp_path / "0.trec").write_text("# OOM\n")
    assert "1 runs to compare" in refused(tmp_path, capsys, '{"metrics": ["nDCG@10"]}', options)
    (tmp_path / "0.trec").write_text("other Q0 d1 1 1.0 t\n")
    line = refused(tmp_path, capsys, '{"metrics": ["nDCG@10"]}', options)
    assert f"{tmp_path / '0.trec'}: has none of the 20 queries of {tmp_path / 'qrels.txt'}" in line


def refused(folder: Path, capsys, settings: str, options: list[str]) -> str:
    """The one line of the error; nothing is written."""
    files = ["--output", str(folder / "out.txt"), "--json", str(folder / "out.json")]
    assert main(["table", "comparison", "--settings", settings, *options, *files]) == 2
    [line] = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
    assert not list(folder.glob("*out.*"))
    return line
