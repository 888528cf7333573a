"""Jobs find their packages in an environment of conda, or in an image of Apptainer, if asked for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.deployment import LOCKS_DIGEST, check_deployment

ERROR = "ssmrank: error: --software-deployment-method: "
TARGET = "results/tables/table4.md"


def settings(*methods: str, prefix: Path | None = None) -> SimpleNamespace:
    """As Snakemake has them."""
    named = [SimpleNamespace(name=name.upper()) for name in methods]
    return SimpleNamespace(deployment_method=named, conda_prefix=prefix)


def with_program(folder: Path, name: str, command: str = "true") -> str:
    """A path of programs that has one of this name, which runs a command of a shell."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{command}\n")
    (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_a_plan_with_an_image_has_the_same_jobs(fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan asks Apptainer for its version only, which a program of one line answers here."""
    usual = fresh.planned("--", TARGET)
    monkeypatch.setenv("PATH", with_program(tmp_path / "programs", "apptainer", "echo apptainer version 1.3.4"))
    (fresh.folder / "ssmrank.sif").write_bytes(b"")
    words = ["--software-deployment-method", "apptainer", "--config", "image=ssmrank.sif", "--", TARGET]
    assert fresh.planned(*words) == usual


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "apptainer needs an image: --config image=FILE.sif, "),
        (["--config", "image=none.sif"], "image none.sif: no such file; "),
        (["conda", "--config", "image=Snakefile"], "conda and apptainer: give one of them"),
    ],
)
def test_an_image_that_is_missing_is_one_line(
    fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    for name in ("apptainer", "conda"):
        monkeypatch.setenv("PATH", with_program(tmp_path / "programs", name))
    assert refusal(fresh, "apptainer", *words).startswith(message)


@pytest.mark.parametrize(
    ("method", "programs", "message"),
    [
        ("conda", ["conda"], "no command `conda` here; install Miniforge, or leave the option out"),
        ("apptainer", ["apptainer", "singularity"], "no command `apptainer` or `singularity` here; install Ap"),
    ],
)
def test_a_program_that_is_missing_is_one_line(fresh, method: str, programs: list[str], message: str) -> None:
    if any(map(shutil.which, programs)):
        pytest.skip(f"{method} is installed")
    assert refusal(fresh, method).startswith(message)
    assert not (fresh.folder / "data").exists()


def refusal(project, *words: str) -> str:
    """The one line that a run with this method ends with, without its beginning."""
    finished = project.snakemake("--software-deployment-method", *words, "--", TARGET, check=False)
    assert finished.returncode != 0 and "Traceback" not in finished.stdout, finished.stdout
    [line] = re.findall("^ssmrank: error: .*$", finished.stdout, re.MULTILINE)
    assert line.startswith(ERROR)
    return line.removeprefix(ERROR)


def test_jobs_in_an_image_run_the_package_that_was_planned(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINERENV_PYTHONPATH", "")
    monkeypatch.setenv("SINGULARITYENV_PYTHONPATH", "")
    monkeypatch.setenv("PATH", with_program(tmp_path / "programs", "apptainer"))
    image = "docker://example.org/ssmrank-pipeline"
    assert check_deployment(root, settings("apptainer"), {"image": image}) == image
    assert os.environ["APPTAINERENV_PYTHONPATH"] == os.environ["SINGULARITYENV_PYTHONPATH"] == str(root / "src")
    assert check_deployment(root, settings(), {"image": image}) is None


def test_the_script_for_conda_installs_the_locks_and_old_environments_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script's programs print their words here."""
    script = root / "workflow/envs/ssmrank.post-deploy.sh"
    first = script.read_text().partition("\n")[0]
    interpreter = first.removeprefix("#!").split() if first.startswith("#!") else ["sh"]  # as Snakemake does
    made = tmp_path / "envs/abc_"
    made.mkdir(parents=True)
    for name in ("python", "uv", "conda"):
        programs = with_program(tmp_path / "programs", name, f'echo {name} "$@"')
    environment = os.environ | {"PATH": programs, "CONDA_PREFIX": str(made)}
    for backend, torch in ("", "--require-hashes --requirement requirements/torch.lock"), ("cpu", "torch=="):
        printed = subprocess.run(
            [*interpreter, str(script)],
            cwd=root,
            env=environment | {"UV_TORCH_BACKEND": backend},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        setup, main, build, own = printed.splitlines()
        assert setup == "python -m pip install --quiet --require-hashes --requirement requirements/setup.lock"
        assert main.endswith("--require-hashes --requirement requirements/main.lock")
        assert torch in build and own.endswith("--editable .")

    monkeypatch.setenv("PATH", programs)
    check_deployment(root, settings("conda", prefix=tmp_path / "envs"), {})
    (made / LOCKS_DIGEST).write_text("0 -\n")
    with pytest.raises(SystemExit) as raised:
        check_deployment(root, settings("conda", prefix=tmp_path / "envs"), {})
    assert str(raised.value).startswith(f"{ERROR}{made}: made from other locks than those in requirements; delete it")
