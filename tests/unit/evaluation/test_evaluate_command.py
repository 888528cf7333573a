from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssmrank.cli import main

SETTINGS = '{"metrics": ["nDCG@10", "MRR@10"]}'


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("run.trec", "qrels.txt", "out.json", "out.queries.json")}
    paths["qrels.txt"].write_text("q1 0 a 1\nq2 0 b 2\n")
    paths["run.trec"].write_text("q1 Q0 x 1 2.0 t\nq1 Q0 a 2 1.0 t\n")
    return paths


def evaluate(files: dict[str, Path], *more: str, settings: str = SETTINGS) -> int:
    return main(
        [
            "evaluate",
            *("--settings", settings),
            *("--run", str(files["run.trec"])),
            *("--qrels", str(files["qrels.txt"])),
            *("--output", str(files["out.json"])),
            *("--per-query", str(files["out.queries.json"])),
            *more,
        ]
    )


def test_writes_means_and_values_of_each_query(files: dict[str, Path]) -> None:
    assert evaluate(files) == 0
    record = json.loads(files["out.json"].read_text())
    assert record["status"] == "ok"
    assert (record["queries"], record["queries_without_results"]) == (2, 1)
    assert record["mean"]["MRR@10"] == pytest.approx(1 / 4)
    assert json.loads(files["out.queries.json"].read_text())["MRR@10"] == {"q1": 0.5, "q2": 0.0}


def test_oom_marker_has_no_means(files: dict[str, Path]) -> None:
    files["run.trec"].write_text("# OOM\n")
    assert evaluate(files) == 0
    record = json.loads(files["out.json"].read_text())
    assert record["status"] == "oom" and record["mean"] == {} and record["queries"] == 2
    assert json.loads(files["out.queries.json"].read_text()) == {}


def test_run_that_is_empty_counts_zero_and_is_no_oom(files: dict[str, Path]) -> None:
    files["run.trec"].write_text("")
    assert evaluate(files) == 0
    record = json.loads(files["out.json"].read_text())
    assert record["status"] == "ok" and record["mean"] == {"nDCG@10": 0.0, "MRR@10": 0.0}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda files: files["run.trec"].unlink(), "run.trec: cannot read"),
        (lambda files: files["qrels.txt"].unlink(), "qrels.txt: cannot read"),
        (lambda files: files["run.trec"].write_text("q1 Q0 a\n"), "run.trec:1: 3 fields"),
        (lambda files: files["run.trec"].write_text("z Q0 a 1 1.0 t\n"), "run.trec: none of its 1 queries"),
        (lambda files: files["qrels.txt"].write_text(""), "the qrels have no query"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(
    files: dict[str, Path], capsys: pytest.CaptureFixture, break_it, message: str
) -> None:
    break_it(files)
    assert evaluate(files) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not files["out.json"].exists() and not files["out.queries.json"].exists()


def test_unknown_metric_is_one_line(files: dict[str, Path], capsys: pytest.CaptureFixture) -> None:
    assert evaluate(files, settings='{"metrics": ["bleu"]}') == 2
    assert "unknown metric 'bleu'; known: nDCG[@k]" in capsys.readouterr().err


def journal(folder: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_metrics_go_to_the_run_of_the_training(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("SSMRANK_TRACKING_JOURNALS", str(tmp_path / "journals"))
    (tmp_path / "mlflow_run_id").write_text("abc123\n")
    more = ["--mlflow-run", str(tmp_path / "mlflow_run_id"), "--prefix", "semanlink/test", "--tag", "model=minilm"]
    assert evaluate(files, *more) == 0
    events = journal(tmp_path / "journals")
    assert events[0]["run"] == "abc123" and events[0]["tags"]["model"] == "minilm"
    values = next(event["values"] for event in events if event["event"] == "metrics")
    assert values["semanlink/test/MRR@10"] == pytest.approx(1 / 4)


def test_absent_run_id_and_malformed_tag(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate(files, "--mlflow-run", str(tmp_path / "absent")) == 0
    assert evaluate(files, "--tag", "model") == 2
    assert "--tag 'model': write it as KEY=VALUE" in capsys.readouterr().err
