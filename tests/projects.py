"""The workflow on tiny inputs, run once. Tests in workflow/ and chaos/ plan changes of that project or copy it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from filelock import FileLock

from forks import Forks
from job_forks import JobForks

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow" / "lib"))

SOURCES = [
    "Snakefile",
    "workflow",
    "profiles",
    "src",
    "tests/data/workflow",
    "dvc.yaml",
    "overlays.yaml",
    ".dvc/config",
    ".dvcignore",
]
IGNORED = "/data/\n/results/\n/mlflow.db*\n/mlruns/\n.snakemake/\n__pycache__/\n"


FORKS, JOBS = Forks(), JobForks()


class Project:
    """A folder with the workflow, its own copy of the code, and the tests' tiny experiment as params.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def environment(self) -> dict[str, str]:
        """The environment of commands: this Python's programs and the project's code."""
        person = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        settings = {
            "PYTHONPATH": str(self.folder / "src"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "dvc-site"),
        }
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return kept | settings | person

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command in the project; `stdout` includes standard error."""
        finished = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1100,
        )
        if check:
            assert finished.returncode == 0, f"{' '.join(command)}\n{finished.stdout}"
        return finished

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Like `run("snakemake", ...)`, but faster: it is a fork, and so are its jobs, unless it may fail."""
        words = ["--cores", "2", *arguments]
        environment = self.environment()
        if check and not {"-n", "--touch"} & {*words}:
            environment |= JOBS.environment()
        with NamedTemporaryFile(prefix="snakemake-", suffix=".txt") as output:
            finished = FORKS.run(words, self.folder, environment, Path(output.name))
        if check:
            assert finished.returncode == 0, f"snakemake {' '.join(words)}\n{finished.stdout}"
        return finished

    @staticmethod
    def jobs(printed: str) -> dict[str, int]:
        """The number of jobs of each rule in Snakemake's output, without rules that only name targets."""
        jobs: dict[str, int] = {}
        for run in printed.split("Building DAG of jobs...")[1:]:
            table = re.search(r"^job +count\n[- ]+\n(.*?)^total +\d+$", run, re.MULTILINE | re.DOTALL)
            assert table is not None or "Nothing to be done" in run, run
            for line in table.group(1).splitlines() if table else []:
                rule, count = line.split()
                if not rule.startswith("all"):
                    jobs[rule] = jobs.get(rule, 0) + int(count)
        return jobs

    def planned(self, *arguments: str) -> dict[str, int]:
        """The jobs that `snakemake -n` plans."""
        return self.jobs(self.snakemake("-n", *arguments).stdout)

    def built(self, *command: str) -> dict[str, int]:
        """The jobs that a command runs."""
        return self.jobs(self.run(*command).stdout)

    def clone(self, folder: Path) -> Project:
        """A Git clone without outputs, but with MLflow's store, which takes seconds to create."""
        self.run("git", "clone", "--quiet", str(self.folder), str(folder))
        shutil.copy2(self.folder / "mlflow.db", folder)
        take_compiled(self.folder / "src", folder / "src")
        return Project(folder)

    def copy(self, folder: Path, without: Sequence[str] = ()) -> Project:
        """A copy with outputs and all records of them; `without` has patterns of names that are not copied."""
        shutil.copytree(self.folder, folder, symlinks=True, ignore=shutil.ignore_patterns(*without))
        take_compiled(self.folder / "src", folder / "src")
        return Project(folder)

    @contextmanager
    def edited(self, path: str, old: str, new: str) -> Iterator[None]:
        """Replaces the one occurrence of a text during the block."""
        text = (self.folder / path).read_text()
        self.edit(path, old, new)
        yield
        (self.folder / path).write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replaces the one occurrence of a text."""
        text = (self.folder / path).read_text()
        assert text.count(old) == 1, f"{path}: {old!r} stands there {text.count(old)} times"
        (self.folder / path).write_text(text.replace(old, new))

    def files(self) -> dict[str, bytes]:
        """Content of every output."""
        roots = [self.folder / name for name in ("data", "results")]
        files = (path for root in roots for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
        unversioned = ("results/logs", "results/benchmarks", "results/state", "results/tracking", "data/archives")
        relative = {path.relative_to(self.folder).as_posix(): path for path in files}
        return {name: path.read_bytes() for name, path in relative.items() if not name.startswith(unversioned)}


ORDER = [
    *("workflow/test_dvc.py", "workflow/test_pretraining.py", "unit/kernels", "workflow", "chaos"),
    "cluster/test_slurm.py",
]
"""The slowest tests start first. Of the first two only one waits for the finished project, so both workers are busy."""


NOT_QUICK = (
    *("chaos", "unit/kernels", "unit/pretraining", "unit/models/test_backbones.py", "unit/models/test_minis.py"),
    *("unit/reranking/test_reuse_on_nfcorpus.py", "unit/retrieval/test_bm25.py", "unit/training/test_parallel.py"),
    *("unit/serving/test_busy.py", "unit/serving/test_limits.py", "workflow/test_provenance.py"),
)
"""What takes long as a whole."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts slow tests first, and marks tests that wait for the whole workflow."""
    tests = Path(__file__).parent
    names = {item: item.path.relative_to(tests).as_posix() for item in items}

    def rank(item: pytest.Item) -> int:
        return next((number for number, start in enumerate(ORDER) if names[item].startswith(start)), len(ORDER))

    items.sort(key=rank)
    for item in items:
        waits = "first_run" in getattr(item, "fixturenames", ())
        if waits or names[item].startswith(NOT_QUICK):
            item.add_marker(pytest.mark.slow)
        if waits or names[item].startswith("chaos"):
            item.add_marker(pytest.mark.timeout(1200))


def take_compiled(sources: Path, copies: Path) -> None:
    """Copies what Python and numba have compiled from sources, which takes half a minute to make.

    Both identify a source by its time. numba's folders are named after the path of the sources' folder.
    """
    for source in sources.rglob("*.py"):
        copy = copies / source.relative_to(sources)
        if copy.exists() and copy.read_bytes() == source.read_bytes():
            shutil.copystat(source, copy)
    for compiled in sources.rglob("__pycache__"):
        target = copies / compiled.relative_to(sources)
        if target.parent.is_dir():
            shutil.copytree(compiled, target, dirs_exist_ok=True)
    folders = {path.parent for path in sources.rglob("*.py")}
    names = {_numba_name(folder): _numba_name(copies / folder.relative_to(sources)) for folder in folders}
    for machine_code in [*copies.rglob("__pycache__/numba-*/*")]:
        if machine_code.name in names:
            machine_code.rename(machine_code.with_name(names[machine_code.name]))


def _numba_name(folder: Path) -> str:
    from numba.core.caching import UserProvidedCacheLocator

    return UserProvidedCacheLocator.get_suitable_cache_subpath(str(folder / "any.py"))


def new_project(root: Path, folder: Path) -> Project:
    for source in SOURCES:
        target = folder / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (root / source).is_dir():
            shutil.copytree(root / source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(root / source, target)
    take_compiled(root / "src", folder / "src")
    (folder / "models").mkdir()
    (folder / "models/README.md").write_text("Small models.\n")  # a dependency of the stage `download`
    (folder / ".gitignore").write_text(IGNORED)
    (folder / "README.md").write_text("# A copy for tests\n")
    shutil.copy2(root / "tests/data/params/tiny.yaml", folder / "params.yaml")
    return Project(folder)


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[Project, str]:
    """The project after `dvc repro` has built everything from sources alone, and what it printed.

    All pytest-xdist workers share it, so no test may change it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    project, printed = Project(shared / "finished/project"), shared / "finished/printed.txt"
    with FileLock(shared / "finished.lock"):
        if not printed.exists():
            shutil.rmtree(project.folder.parent, ignore_errors=True)
            new_project(root, project.folder)
            project.run("git", "init", "--quiet")
            printed.write_text(project.run("dvc", "repro").stdout)
    return project, printed.read_text()


@pytest.fixture(scope="session")
def finished(first_run: tuple[Project, str], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project, for plans; tests undo their edits."""
    return first_run[0].copy(tmp_path_factory.mktemp("copy") / "project")


@pytest.fixture
def project(first_run: tuple[Project, str], tmp_path: Path) -> Project:
    """A copy of the finished project, which the test may change."""
    return first_run[0].copy(tmp_path / "project")


@pytest.fixture
def fresh(tmp_path: Path, root: Path) -> Project:
    """The project with nothing built."""
    return new_project(root, tmp_path / "project")
