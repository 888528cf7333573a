"""Containerfile.pipeline: its steps, followed in an empty folder, give an environment in which the workflow runs."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from containerfiles import Followed, Instruction, instructions, locked
from environments import closure


@pytest.fixture(scope="module")
def steps(root: Path) -> list[Instruction]:
    return instructions((root / "Containerfile.pipeline").read_text())


def packages(root: Path) -> set[str]:
    """What the steps install, on a CPU."""
    cluster = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cluster"]
    locks = [locked(root / "requirements" / f"{name}.lock") for name in ("setup", "main")]
    return set().union(*locks, closure(cluster), {"torch"})


@pytest.fixture(scope="module")
def container(root: Path, steps: list[Instruction], tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """A folder in which all steps were followed, with the tests' tiny experiment as params.yaml."""
    followed = Followed(root, tmp_path_factory.mktemp("container"), packages(root))
    followed.follow(steps)
    shutil.copy(root / "tests/data/params/tiny.yaml", followed.folder / "params.yaml")
    shutil.copytree(root / "tests/data/workflow", followed.folder / "tests/data/workflow")
    return followed


def test_what_is_installed_has_digests(steps: list[Instruction]) -> None:
    installs = [rest for word, rest in steps if word == "RUN" and " pip install " in rest]
    assert len(installs) == 4
    for rest in installs:
        assert "--require-hashes" in rest or "--constraints requirements/dev.lock" in rest, rest
    # Of a build of torch for CPUs the lock has no digest.
    assert sum("--torch-backend cpu" in rest for rest in installs) == 1


@pytest.mark.parametrize("torch", ["cpu", "cuda", "gpu"])
def test_a_build_of_torch_that_does_not_exist_is_named(
    root: Path, steps: list[Instruction], tmp_path: Path, torch: str
) -> None:
    followed = Followed(root, tmp_path / "container", [], TORCH=torch)
    first = next(number for number, (word, _) in enumerate(steps) if word == "RUN")
    followed.follow(steps[:first])
    finished = followed.run(steps[first][1])
    expected = (2, "TORCH=gpu: give cpu or cuda\n") if torch == "gpu" else (0, "")
    assert (finished.returncode, finished.stderr) == expected


@pytest.mark.slow
def test_a_container_s_steps_give_an_environment_that_runs_the_workflow(container: Followed) -> None:
    """A first stage needs Java, a reranker needs torch, and measures need what is compiled."""
    metrics = "results/metrics/tiny/test/bm25-top10/firstp/tiny-bert.json"
    finished = container.run(f"snakemake --cores 2 {metrics}")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert 0 < json.loads((container.folder / metrics).read_text())["mean"]["nDCG@10"] <= 1
