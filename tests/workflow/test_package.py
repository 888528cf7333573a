"""Jobs run the package of the workflow's own folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import code as finder
from pipeline.package import check_package
from ssmrank import __version__
from ssmrank.tracking.journal import git_revision


@pytest.fixture(autouse=True)
def _environment_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMRANK_PACKAGE", "")
    monkeypatch.setenv("SSMRANK_RELEASE", "")


def test_the_workflow_s_own_package_runs(root: Path) -> None:
    check_package(root, {})
    assert os.environ["SSMRANK_PACKAGE"] == str(root / "src" / "ssmrank")


@pytest.mark.parametrize("config", [{}, {"installed_release": False}, {"installed_release": "no"}])
def test_another_folder_s_package_is_refused(tmp_path: Path, root: Path, config: dict[str, object]) -> None:
    with pytest.raises(SystemExit) as raised:
        check_package(tmp_path, config)
    [line] = str(raised.value).splitlines()
    assert line.startswith(f"ssmrank: error: the workflow is in {tmp_path}, but {sys.executable} runs the package in ")
    assert str(root) in line and "--config installed_release=true" in line


def test_an_installed_release_may_run_and_is_recorded(tmp_path: Path, root: Path) -> None:
    check_package(tmp_path, {"installed_release": True})
    assert git_revision() == f"ssmrank {__version__}"
    assert finder.release(root / "src", root) == ()
    assert finder.release(tmp_path, root) == (f"ssmrank {__version__} (installed)",)


def test_no_package_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.package.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^ssmrank: error: the package ssmrank is not installed for [^\n]*$"):
        check_package(root, {})


def test_a_job_of_another_package_than_the_planned_one_ends_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ssmrank", "--version"]
    environment = os.environ | {"SSMRANK_PACKAGE": str(tmp_path / "src" / "ssmrank")}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 2
    [line] = finished.stderr.splitlines()
    assert line.startswith("ssmrank: error: ") and line.endswith(f"planned with {tmp_path}/src/ssmrank")
