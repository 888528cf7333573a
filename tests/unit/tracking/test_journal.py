"""Journals that jobs write are complete and cheap, and never stop a job."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssmrank.tracking import track
from ssmrank.tracking.journal import git_revision


@pytest.fixture
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("SSMRANK_TRACKING_JOURNALS", str(tmp_path / "journals"))
    return tmp_path / "journals"


def events(journals: Path) -> list[dict]:
    [path] = journals.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_off_does_nothing_and_imports_no_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; from ssmrank.tracking import track\n"
        "with track('train', 'a', {}, {}) as tracked:\n"
        "    tracked.metrics({'loss': 1.0}, step=1); tracked.params({'a': 1})\n"
        "    tracked.artifact_path('checkpoint', 'x')\n"
        "    assert tracked.run_id is None\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_job_with_journals_imports_no_mlflow(journals: Path) -> None:
    code = (
        "import sys; from ssmrank.tracking import track\n"
        "with track('train', 'a') as tracked: tracked.metrics({'loss': 1.0}, step=1)\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [event["event"] for event in events(journals)] == ["start", "metrics", "end"]


def test_what_a_journal_says(journals: Path) -> None:
    with track("train", "firstp/minilm", {"model": "minilm", "seed": "42"}, {"learning_rate": 0.1}) as tracked:
        tracked.metrics({"loss": 0.5}, step=3)
        tracked.params({"device": "cpu"})
        tracked.artifact_path("checkpoint", Path("results/checkpoints/firstp/minilm"))
    start, metrics, params, tags, end = events(journals)
    assert start["run"] == tracked.run_id
    assert start["name"] == "firstp/minilm"
    assert start["tags"] == {"rule": "train", "git_revision": git_revision(), "model": "minilm", "seed": "42"}
    assert start["params"] == {"learning_rate": 0.1}
    assert (metrics["values"], metrics["step"]) == ({"loss": 0.5}, 3)
    assert params["values"] == {"device": "cpu"}
    assert tags["values"] == {"checkpoint": "results/checkpoints/firstp/minilm"}
    assert end["status"] == "FINISHED"


def test_a_job_that_raises_is_a_failed_run(journals: Path) -> None:
    with pytest.raises(ValueError, match="no"), track("train", "a"):
        raise ValueError("no")
    assert events(journals)[-1]["status"] == "FAILED"


def test_a_job_goes_on_where_no_journal_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setenv("SSMRANK_TRACKING_JOURNALS", str(tmp_path / "file" / "journals"))
    with caplog.at_level(logging.WARNING), track("train", "a") as tracked:
        for step in range(3):
            tracked.metrics({"loss": 1.0}, step=step)
    [record] = caplog.records
    assert "the job continues without tracking" in record.getMessage()


def test_a_job_goes_on_where_the_store_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    monkeypatch.delenv("SSMRANK_TRACKING_JOURNALS", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with caplog.at_level(logging.WARNING), track("train", "a") as tracked:
        tracked.metrics({"loss": 1.0})
    [record] = caplog.records
    assert "tracking: " in record.getMessage()
    assert "the journal stays in" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert len(list(tmp_path.glob("ssmrank-tracking-*/*.jsonl"))) == 1


def test_revision_of_a_folder_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_revision() == "unknown"


def test_a_long_job_is_delivered_while_it_runs(journals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    class Running:
        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)

        def poll(self) -> None:
            return None

    monkeypatch.setattr("ssmrank.tracking.journal.LIVE_SECONDS", 0.0)
    monkeypatch.setattr("ssmrank.tracking.journal.subprocess.Popen", Running)
    monkeypatch.setattr("ssmrank.tracking.journal.git_revision", lambda: "unknown")
    with track("train", "a") as tracked:
        tracked.metrics({"loss": 1.0}, step=0)
        tracked.metrics({"loss": 0.5}, step=1)
    # There is one delivery at a time; the first has not ended yet.
    assert [command[1:] for command in started] == [
        ["-m", "ssmrank", "tracking-store", "--journals", str(journals)],
    ]
