"""`import ssmrank` as a library: its names and imports, and that the engine works without the pipeline's packages."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ssmrank
from environments import closure, link_packages

QUERY = "which animals live in rivers"
TEXTS = ["The otter hunts fish in rivers.", "A compiler translates programs.", "Lava flows from a volcano."]


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's wheel, built from a copy without network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    shutil.copytree(root / "src" / "ssmrank", source / "src" / "ssmrank", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True, timeout=240)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def requirements(wheel: Path) -> dict[str, list[str]]:
    """The wheel's requirements by extra; those of "" always apply."""
    [found] = metadata.Distribution.discover(path=[str(wheel)])
    lines: dict[str, list[str]] = {"": [], "pipeline": []}
    for line in map(Requirement, found.requires or []):
        for extra in lines:
            if line.marker is None if not extra else line.marker and line.marker.evaluate({"extra": extra}):
                lines[extra].append(line.name)
    return lines


def modules_of(distributions: set[str], engine: set[str]) -> set[str]:
    """Top-level modules that one of the distributions installs and no distribution of the engine does."""
    owners = metadata.packages_distributions().items()
    by = {module: {canonicalize_name(name) for name in names} for module, names in owners}
    return {module for module, names in by.items() if names & distributions and not names & engine}


def test_public_names_are_where_the_root_says() -> None:
    assert set(ssmrank._MODULES) | {"__version__"} == set(ssmrank.__all__) <= set(dir(ssmrank))
    for name in ssmrank.__all__:
        assert getattr(ssmrank, name) is not None
    with pytest.raises(AttributeError, match="module 'ssmrank' has no attribute 'Ranker'"):
        ssmrank.Ranker  # noqa: B018


def test_no_module_takes_public_names_from_the_root(root: Path) -> None:
    """The code that a job depends on is found from its imports, which do not see through the root package."""
    for path in (root / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "ssmrank":
                assert not ssmrank._MODULES.keys() & {alias.name for alias in node.names}, path
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ssmrank":
                assert node.attr not in ssmrank._MODULES, path


@pytest.mark.slow
def test_the_reranker_is_imported_without_the_pipeline_s_packages(requirements: dict[str, list[str]]) -> None:
    code = (
        "import json, sys; before = set(sys.modules); import ssmrank; ssmrank.Reranker\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    imported = set(json.loads(finished.stdout))
    # Their own requirements are left out, because torch imports some of these if they are installed (dill, pydot).
    apart = modules_of(set(requirements["pipeline"]), closure(requirements[""]))
    assert {"dvc", "faiss", "ir_measures", "matplotlib", "mlflow", "pyserini", "scipy", "snakemake"} <= apart
    assert "torch" in imported and not imported & apart


@pytest.mark.slow
def test_the_wheel_alone_scores_as_the_whole_environment_does(
    root: Path, wheel: Path, requirements: dict[str, list[str]], tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, str(wheel)], check=True, timeout=240)
    assert (python.parent / "ssmrank").is_file() and not (python.parent / "snakemake").exists()
    packages = link_packages(tmp_path / "venv", closure(requirements[""]))
    code = (
        "import importlib.util, json, sys, ssmrank\n"
        "model, query, texts, apart = json.loads(sys.argv[1])\n"
        "there = [name for name in apart if sys.prefix in repr(importlib.util.find_spec(name))]\n"
        "reranker = ssmrank.Reranker.from_pretrained(model, device='cpu', precision='fp32')\n"
        "print(json.dumps([ssmrank.__file__, there, reranker.score(query, texts)]))"
    )
    model = root / "models" / "minis" / "opt"
    apart = modules_of(closure(requirements["pipeline"]), closure(requirements[""]))
    assert {"dvc", "mlflow", "pandas", "snakemake"} <= apart
    told = json.dumps([str(model), QUERY, TEXTS, sorted(apart)])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python), "-I", "-c", code, told]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280, env=environment)
    file, there, scores = json.loads(finished.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(packages)
    assert there == []
    reranker = ssmrank.Reranker.from_pretrained(model, device="cpu", precision="fp32")
    assert scores == reranker.score(QUERY, TEXTS)
    assert max(range(3), key=scores.__getitem__) == 0
