"""What the workflow does with journals at its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipeline.environment import deliver_journals
from pipeline.paths import JOURNALS
from ssmrank.tracking import track


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project's folder with a folder of journals; `ssmrank` is beside this Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("SSMRANK_TRACKING_JOURNALS", JOURNALS)
    Path(JOURNALS).mkdir(parents=True)


def test_warnings_of_a_delivery_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    (Path(JOURNALS) / "0-train-a.jsonl").write_text("no JSON\n")
    with track("train", "sound"):
        pass
    deliver_journals()
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"warning: {JOURNALS}/0-train-a.jsonl: is not a journal of a job")
    assert line.endswith("set aside as 0-train-a.malformed")
    assert [path.name for path in Path(JOURNALS).iterdir()] == ["0-train-a.malformed"]


def test_a_delivery_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///file/mlflow.db")
    Path("file").touch()
    (Path(JOURNALS) / "0-train-a.jsonl").write_text("{}\n")
    deliver_journals()
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: not all of this run is in MLflow yet (ssmrank tracking-store: error: file/mlf")
    assert line.endswith(f"set tracking.uri); the next run tries again from {JOURNALS}")
