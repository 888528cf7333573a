"""The Containerfile: its steps, followed in an empty folder, give a server that ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest

from browsers import answers, free_port, start, stop, wait_for
from containerfiles import Followed, Instruction, ignored, instructions, patterns
from environments import closure
from ssmrank import Reranker

QUERY = "which animals live in rivers"
TEXTS = ["A compiler translates programs.", "The otter hunts fish in rivers.", "Lava flows from a volcano."]


@pytest.fixture(scope="module")
def steps(root: Path) -> list[Instruction]:
    return instructions((root / "Containerfile").read_text())


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
def container(root: Path, steps: list[Instruction], tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """A folder in which all steps were followed."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["serve"], "setuptools", "uv"]
    followed = Followed(root, tmp_path_factory.mktemp("container"), closure(wanted))
    followed.follow(steps)
    return followed


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
