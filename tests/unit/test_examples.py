"""The scripts of examples/ run and print what they promise."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssmrank.io.trec import read_run
from ssmrank.training.loss import LOSSES
from tracking_state import mlflow_as_it_was

Run = Callable[..., list[str]]


@pytest.fixture
def run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a script in an empty folder and returns the lines that it prints."""

    def run(name: str, *arguments: str) -> list[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(root / "examples" / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run


def test_texts_are_ordered(run: Run) -> None:
    first, *others = run("rerank_texts.py")
    assert "Mamba" in first and len(others) == 2
    [line] = run("rerank_texts.py", "rivers", "a text of one's own")
    assert line.endswith("a text of one's own")


def test_a_run_file_is_written(run: Run, root: Path, tmp_path: Path) -> None:
    run("write_a_run.py", "mine.trec")
    written, before = read_run(tmp_path / "mine.trec"), read_run(root / "examples/data/first-stage.trec")
    assert {query: {document for document, _ in ranking} for query, ranking in written.items()} == {
        query: {document for document, _ in ranking} for query, ranking in before.items()
    }
    assert written["q3"][0][0] == "d9"


def test_the_best_passage_holds_what_was_asked(run: Run) -> None:
    lines = run("long_document.py")
    relevant, other = ([float(number) for number in re.findall(r"-?[0-9]+\.[0-9]+", line)] for line in lines)
    assert relevant[1] > relevant[0] and relevant[1] > other[1]


def test_a_new_loss_is_learned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "hinge", LOSSES["ranknet"])  # so that the script's loss is removed after the test
    losses = [float(line.split()[-1]) for line in run("add_a_loss.py")]
    assert losses[-1] < 0.5 * losses[0]


def test_runs_are_compared(run: Run) -> None:
    head, *rows = run("compare_runs.py")
    assert head.split()[:2] == ["first-stage", "second"]
    for row in rows:
        _, first, second, p = row.split()
        assert float(second) > float(first) and 0 < float(p) <= 1
    assert [row.split()[0] for row in rows] == ["nDCG@10", "MRR@10"]


def test_an_exported_model_gives_the_same_scores(run: Run) -> None:
    _, *rows = run("export_a_model.py")
    scores = [[float(number) for number in row.split()[:2]] for row in rows]
    assert len(scores) == 2 and scores[0] != scores[1]
    assert all(own == pytest.approx(other, abs=1e-4) for own, other in scores)


def test_pyterrier_compares_a_first_stage_with_its_reranking(run: Run) -> None:
    pytest.importorskip("pyterrier")
    head, *rows = run("pyterrier_experiment.py")
    assert head.split() == ["name", "nDCG@10", "RR(rel=2)@10"]
    (_, _, *first), (_, name, *second) = (row.split() for row in rows)
    assert name == "mamba2" and all(float(ours) > float(before) for ours, before in zip(second, first, strict=True))


@pytest.mark.slow
def test_mteb_evaluates_on_the_examples_own_task(run: Run) -> None:
    pytest.importorskip("mteb")
    model, task, value = run("mteb_reranking.py")[-1].split()
    assert (model, task) == ("ssmrank/mamba2", "ExamplesReranking") and 0.8 < float(value) <= 1


@pytest.mark.slow
def test_a_model_of_mlflow_scores(run: Run) -> None:
    with mlflow_as_it_was():
        river, mamba = (float(line.split()[0]) for line in run("mlflow_model.py"))
    assert mamba > river


def test_the_scripts_are_short_and_listed(root: Path) -> None:
    scripts = sorted((root / "examples").glob("*.py"))
    listed = (root / "examples" / "README.md").read_text()
    for script in scripts:
        assert len(script.read_text().splitlines()) <= 40
        assert f"({script.name})" in listed
    assert len(scripts) == 9


def test_the_data_fit_together(root: Path) -> None:
    data = root / "examples" / "data"
    ids = {json.loads(line)["id"] for line in (data / "documents.jsonl").read_text().splitlines()}
    for name in ("first-stage.trec", "second.trec"):
        assert {document for ranking in read_run(data / name).values() for document, _ in ranking} <= ids
