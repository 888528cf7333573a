"""Containerfile.pipeline: its steps, followed in an empty folder, give an environment that plans the workflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from containerfiles import Followed, Instruction, instructions, pipeline


@pytest.fixture(scope="module")
def steps(root: Path) -> list[Instruction]:
    return instructions((root / "Containerfile.pipeline").read_text())


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
def test_a_container_s_steps_give_an_environment_that_plans_the_workflow(root: Path, tmp_path: Path) -> None:
    """tests/cluster runs the workflow there."""
    container = pipeline(root, tmp_path / "container")
    finished = container.run("snakemake -n results/tables/table4.md")
    assert finished.returncode == 0 and "rerank" in finished.stdout + finished.stderr, finished.stderr
