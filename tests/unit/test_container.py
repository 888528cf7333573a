"""The Containerfile: its steps, followed in an empty folder, give a server that ranks."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from browsers import answers, free_port, start, stop, wait_for
from environments import closure, link_packages
from ssmrank import Reranker

QUERY = "which animals live in rivers"
TEXTS = ["A compiler translates programs.", "The otter hunts fish in rivers.", "Lava flows from a volcano."]

Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    """Keyword and arguments of each instruction, with continued lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


@pytest.fixture(scope="module")
def steps(root: Path) -> list[Instruction]:
    return instructions((root / "Containerfile").read_text())


def patterns(context: Path) -> list[str]:
    """The lines of .containerignore."""
    return [line for line in (context / ".containerignore").read_text().splitlines() if line[:1] not in ("", "#")]


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .containerignore leaves a path of the context out: the last pattern that matches decides."""
    parents = ["/".join(path.split("/")[: count + 1]) for count in range(path.count("/") + 1)]
    out = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if any(fnmatch(one, bare) or fnmatch("/" + one, bare.replace("**", "*")) for one in parents):
            out = not pattern.startswith("!")
    return out


class Followed:
    """A folder that stands for the container's root, and this environment's packages for the package index."""

    def __init__(self, context: Path, root: Path) -> None:
        self.context, self.root = context, root
        self.folder, self.arguments, self.environment = root, dict[str, str](), dict[str, str]()
        self.ignore = patterns(context)
        programs = root / "usr/local/bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(sys.executable)
        self.outside = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "UV_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
            "HOME": str(root),
        }

    def inside(self, text: str) -> str:
        """A command with the container's absolute paths as they are here."""
        return re.sub(r"(?<![\w./-])/(?=(?:opt|var|model|build)\b)", f"{self.root}/", text)

    def follow(self, steps: list[Instruction]) -> None:
        for word, rest in steps:
            if (step := getattr(self, f"_{word.lower()}", None)) is not None:
                step(re.sub(r"\$\{(\w+)\}", lambda name: self.arguments[name[1]], rest))

    def _from(self, rest: str) -> None:
        version = re.match(r"docker\.io/library/python:(\d\.\d+)-", rest)
        assert version and version[1] in ("3.11", "3.12", "3.13"), rest
        self.folder, self.environment = self.root, {}

    def _workdir(self, rest: str) -> None:
        self.folder = Path(self.inside(rest))
        self.folder.mkdir()

    def _arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self.arguments[name] = value

    def _env(self, rest: str) -> None:
        self.environment |= dict(word.split("=", 1) for word in shlex.split(self.inside(rest)))

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        if sources[0].startswith("--from="):
            assert sources[1:] == [target] and Path(self.inside(target)).exists()
            return
        place = self.folder / self.inside(target)
        for name in sources:
            assert not ignored(name, self.ignore), f"{name} is left out by .containerignore"
            if (self.context / name).is_dir():
                shutil.copytree(self.context / name, place, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.context / name, place)

    def _run(self, rest: str) -> None:
        command = ["sh", "-ec", self.inside(rest)]
        environment = self.outside | self.environment
        finished = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, f"RUN {rest}\n{finished.stdout}{finished.stderr}"
        if "-m venv" in rest:
            self._fill(Path(self.inside("/opt/ssmrank")))

    def _fill(self, environment: Path) -> None:
        """Installs the requirements of the server as links, so that the steps that follow find them installed."""
        project = tomllib.loads((self.context / "pyproject.toml").read_text())["project"]
        wanted = [*project["dependencies"], *project["optional-dependencies"]["serve"], "setuptools", "uv"]
        for old in environment.glob("lib/python*/site-packages/*setuptools*"):  # Python's own, which the lock replaces
            shutil.rmtree(old)
        link_packages(environment, closure(wanted))
        (environment / "bin/uv").symlink_to(Path(sys.executable).parent / "uv")


def test_the_server_is_no_root_and_is_stopped_by_its_signal(steps: list[Instruction]) -> None:
    last = dict(steps)
    assert last["USER"].split(":")[0] not in ("", "0", "root")
    assert last["STOPSIGNAL"] == "SIGTERM"
    order = [word for word, _ in steps]
    assert order.index("USER") < order.index("ENTRYPOINT") and "CMD" not in order
    assert json.loads(last["ENTRYPOINT"])[-1] == last["EXPOSE"]
    assert f":{last['EXPOSE']}/health" in last["HEALTHCHECK"]
    # What is installed has digests, or is the project itself, or torch's build for CPUs.
    installs = [rest for word, rest in steps if word == "RUN" and " install " in rest and "-m venv" not in rest]
    assert all("--require-hashes" in rest or "--constraints requirements/dev.lock" in rest for rest in installs[:2])


def test_nothing_but_what_is_copied_reaches_the_builder(root: Path) -> None:
    lines = patterns(root)
    for name in ("data/collections/x", "mlflow.db", ".git/config", ".env", "results/runs", "src/ssmrank/__pycache__/x"):
        assert ignored(name, lines), name
    for name in ("src/ssmrank/api.py", "models/minis/mamba2/config.json", "requirements/dev.lock", "pyproject.toml"):
        assert not ignored(name, lines), name


@pytest.fixture(scope="module")
def container(root: Path, steps: list[Instruction], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    """A folder in which all steps were followed."""
    followed = Followed(root, tmp_path_factory.mktemp("container"))
    followed.follow(steps)
    yield followed


@pytest.mark.slow
def test_a_container_s_steps_give_a_server_that_ranks(
    root: Path, container: Followed, steps: list[Instruction], tmp_path: Path
) -> None:
    last, port = dict(steps), free_port()
    entry = [container.inside(word) for word in json.loads(last["ENTRYPOINT"])]
    environment = {"PATH": os.environ["PATH"]} | container.environment
    # As words after the image's name: the last of two options counts.
    command = [*entry, "--host", "127.0.0.1", "--port", str(port), "--precision", "fp32"]
    server = start(command, tmp_path / "log", environment)
    check = [container.inside(word) for word in json.loads(last["HEALTHCHECK"].partition("CMD ")[2])]
    healthy = [word.replace(":8080/", f":{port}/") for word in check]
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{url}/health") or server.poll() is not None, "server")
        assert server.poll() is None, (tmp_path / "log").read_text()
        assert subprocess.run(healthy, env=environment, timeout=60).returncode == 0
        assert answers(f"{url}/")  # the page is a file of the package
        asked = json.dumps({"query": QUERY, "documents": TEXTS, "use_activation": False})
        command = ["curl", "-sS", f"{url}/v2/rerank", "-H", "Content-Type: application/json", "-d", asked]
        answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
        reranker = Reranker.from_pretrained(root / "models/minis/mamba2", device="cpu", precision="fp32")
        expected = reranker.rank(QUERY, TEXTS)
        assert [one["index"] for one in answer["results"]] == [one.index for one in expected]
        found = [one["relevance_score"] for one in answer["results"]]
        assert found == pytest.approx([one.score for one in expected], abs=1e-4)
        server.send_signal(getattr(signal, last["STOPSIGNAL"]))
        assert server.wait(60) == 0
        assert subprocess.run(healthy, env=environment, timeout=60, capture_output=True).returncode != 0
    finally:
        stop(server)
