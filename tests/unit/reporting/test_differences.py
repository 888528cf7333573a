"""Figures of per-query differences and of training curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssmrank.cli import main
from ssmrank.config.table_settings import ResultColumn, ResultRow, ResultSection, TableSettings
from ssmrank.errors import UserError
from ssmrank.evaluation.per_query import PerQueryFiles
from ssmrank.reporting.curves import read_curve, smoothed
from ssmrank.reporting.differences import panels_of


def settings(*rows: ResultRow, baseline: str | None = None) -> TableSettings:
    return TableSettings(
        caption="C.",
        collections=["X"],
        columns=[
            ResultColumn(label="X", metric="nDCG@10", tests=["x/s"]),
            ResultColumn(label="Y", metric="nDCG@10", tests=["y/s"]),
            ResultColumn(label="Mean", metric="nDCG@10", tests=["x/s", "y/s"]),
        ],
        sections=[ResultSection(title="S", rows=list(rows))],
        alpha=None if baseline is None else 0.05,
        baseline=baseline,
    )


def write(folder: Path, **values: list[float] | None) -> None:
    for run, own in values.items():
        for test in ("x", "y"):
            path = folder / test / "s" / f"{run.replace('_', '@')}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            queries = {f"q{number}": value for number, value in enumerate(own or [])}
            path.write_text(json.dumps({"nDCG@10": queries} if own else {}))


ROWS = [
    ResultRow(label="Published", runs=[]),
    ResultRow(label="BM25", runs=["bm25"]),
    ResultRow(label="A", length="F", runs=["a", "a@seed2"]),
    ResultRow(label="B", runs=["b"]),
]


def test_panels_are_differences_from_the_first_row_that_is_run(tmp_path: Path) -> None:
    write(tmp_path, bm25=[0.5, 0.5, 0.5], a=[0.6, 0.2, 0.5], a_seed2=[0.8, 0.4, 0.5], b=None)
    baseline, panels = panels_of(settings(*ROWS), PerQueryFiles(tmp_path))
    assert baseline == "BM25"
    assert [(panel.system, panel.test) for panel in panels] == [("A F", "X nDCG@10"), ("A F", "Y nDCG@10")]
    # Means over two seeds are 0.7, 0.3 and 0.5.
    np.testing.assert_allclose(panels[0].differences, [0.2, 0.0, -0.2], atol=1e-12)


def test_panels_are_differences_from_the_baseline_of_the_tests(tmp_path: Path) -> None:
    write(tmp_path, bm25=[0.5, 0.5], a=[0.6, 0.2], a_seed2=[0.6, 0.2], b=[0.1, 0.2])
    baseline, panels = panels_of(settings(*ROWS, baseline="A F"), PerQueryFiles(tmp_path))
    assert baseline == "A F" and {panel.system for panel in panels} == {"BM25", "B"}
    write(tmp_path, b=[0.1])
    with pytest.raises(UserError, match="x/s: B and A F have different queries"):
        panels_of(settings(*ROWS, baseline="A F"), PerQueryFiles(tmp_path))
    with pytest.raises(UserError, match="no two rows with per-query values"):
        panels_of(settings(ROWS[0], ROWS[1]), PerQueryFiles(tmp_path))


def test_equal_values_give_equal_figures(tmp_path: Path) -> None:
    write(tmp_path, bm25=[0.5, 0.5], a=[0.6, 0.2], a_seed2=[0.6, 0.2], b=[0.1, 0.2])
    words = ["figure", "differences", "--settings", settings(*ROWS).model_dump_json(), "--per-query", str(tmp_path)]
    for name in ("one", "two"):
        outputs = [str(tmp_path / f"{name}.{kind}") for kind in ("svg", "pdf")]
        assert main([*words, "--output", *outputs]) == 0
    for kind in ("svg", "pdf"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()
    text = (tmp_path / "one.svg").read_text()
    assert "1 better, 1 worse" in text and "mean -10.0" in text and "less BM25" in text
    assert main([*words, "--output", str(tmp_path / "x.bmp")]) == 2


def test_curves_are_smoothed_by_the_last_fiftieth_of_the_steps() -> None:
    assert smoothed([3.0, 1.0, 2.0]) == [3.0, 1.0, 2.0]
    values = list(range(200))
    assert smoothed(values)[:2] == [0.0, 0.5] and smoothed(values)[-1] == np.mean([196, 197, 198, 199])
    assert smoothed([]) == []


def test_the_command_draws_losses_and_validation(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    outcomes = {
        "a": {"status": "ok", "loss": [2.0, 1.0, 0.5], "validation": [[2, 0.3], [3, 0.4]]},
        "b": {"status": "ok", "loss": [2.0, 1.5]},
        "c": {"status": "oom"},
    }
    for name, outcome in outcomes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "outcome.json").write_text(json.dumps(outcome))
    assert read_curve("A", tmp_path / "a").validation == [(2, 0.3), (3, 0.4)]
    words = ["figure", "curves", "--title", "firstp", "--checkpoints", *(f"Model {n}={tmp_path / n}" for n in outcomes)]
    assert main([*words, "--output", str(tmp_path / "c.svg")]) == 0
    text = (tmp_path / "c.svg").read_text()
    assert "Model a" in text and "Model c (OOM)" in text and "metric of held-out queries" in text
    (tmp_path / "a/outcome.json").write_text("[]")
    assert main([*words, "--output", str(tmp_path / "d.svg")]) == 2
    assert "outcome.json: has no loss curve of a training" in capsys.readouterr().err
