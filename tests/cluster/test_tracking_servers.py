"""An experiment with its runs in PostgreSQL and its models in S3, through an outage; and through MLflow's server."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from browsers import answers, free_port, start, stop, wait_for
from cluster.postgres import PASSWORD, Postgres
from cluster.s3 import S3
from projects import Project, new_project
from ssmrank import cli
from ssmrank.tracking import track
from ssmrank.tracking.store import deliver

pytestmark = pytest.mark.timeout(600)

DATABASE = "experiment"
EPOCHS = 40
STEPS = 4 * EPOCHS
"""Some seconds of training."""

JOURNALS = "results/tracking"


def metrics_of(model: str) -> str:
    return f"results/metrics/tiny/test/bm25-top10/firstp/{model}.json"


class Experiment:
    """The tests' tiny experiment with two more settings, and what its commands printed."""

    def __init__(self, project: Project, uri: str, bucket: str) -> None:
        self.project, self.uri, self.bucket = project, uri, bucket
        self.printed: list[str] = []

    def runs(self) -> dict[str, Any]:
        """The runs by name, through MLflow's client."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name("toy")
        assert found is not None
        return {run.info.run_name: run for run in client.search_runs([found.experiment_id])}

    def deliver(self) -> subprocess.CompletedProcess[str]:
        """Carries the journals over, as the workflow does at its end."""
        command = [sys.executable, "-m", "ssmrank", "tracking-store", "--journals", JOURNALS]
        settings = {"MLFLOW_TRACKING_URI": self.uri, "MLFLOW_EXPERIMENT_NAME": "toy", "SSMRANK_TRACKING_MODELS": "copy"}
        settings["SSMRANK_TRACKING_ARTIFACTS"] = f"s3://{self.bucket}/models"
        environment = self.project.environment() | settings
        return subprocess.run(command, cwd=self.project.folder, env=environment, capture_output=True, text=True)

    def journals(self) -> list[Path]:
        return [*(self.project.folder / JOURNALS).glob("*.jsonl")]

    def losses(self) -> int:
        """How many losses the training has written to its journal."""
        lines = [line for path in self.journals() if "-train-" in path.name for line in path.read_text().splitlines()]
        return sum(line.startswith('{"event": "metrics"') and '"loss"' in line for line in lines)

    def trainer(self) -> int:
        """The process of the training."""
        [journal] = [path for path in self.journals() if "-train-" in path.name]
        return int(json.loads(journal.read_text().splitlines()[0])["process"].split()[0])


@pytest.fixture(scope="module")
def servers(postgres: Postgres, s3: S3) -> Iterator[None]:
    """What every process needs to reach both servers, in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (s3.environment | {"AWS_ENDPOINT_URL": s3.endpoint, "PGPASSWORD": PASSWORD}).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def experiment(
    postgres: Postgres, with_tables: str, servers: None, s3: S3, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Experiment:
    """The experiment after its run, in the middle of whose training the database was down.

    The training is halted from its second step on until the database is down, so that no machine is too fast.
    """
    project = new_project(root, tmp_path_factory.mktemp("experiment") / "project")
    made = Experiment(project, postgres.database(DATABASE, with_tables), s3.bucket())
    settings = f"  uri: {made.uri}\n  artifacts: s3://{made.bucket}/models\n  experiment: toy\n  models: copy\n"
    params = project.folder / "params.yaml"
    params.write_text(
        params.read_text().replace("groups: 16", f"groups: 16\n    epochs: {EPOCHS}") + f"\ntracking:\n{settings}"
    )
    project.edit("src/ssmrank/tracking/journal.py", "LIVE_SECONDS = 300.0", "LIVE_SECONDS = 0.0")
    log = project.folder.parent / "printed.txt"
    workflow = start(
        ["snakemake", "--cores", "2", metrics_of("tiny-mamba2")], log, project.environment(), project.folder
    )
    delivered = "SELECT count(*) FROM metrics WHERE key = 'loss'"
    try:
        while made.losses() < 2:  # it has started a delivery
            assert workflow.poll() is None, log.read_text()
            time.sleep(0.01)
        os.kill(made.trainer(), signal.SIGSTOP)
        written = made.losses()
        assert written < STEPS
        wait_for(lambda: postgres.query(DATABASE, delivered) > [(0,)], "first losses")
        postgres.stop("immediate")
        os.kill(made.trainer(), signal.SIGCONT)
        try:
            made.printed.append(made.deliver().stderr)
            wait_for(lambda: made.losses() > written, "further losses")
        finally:
            postgres.start()
        assert workflow.wait(timeout=400) == 0, log.read_text()
    finally:
        stop(workflow)
    made.printed += [log.read_text(), made.deliver().stderr]  # the workflow may have ended in the outage
    return made


def test_an_outage_in_a_training_loses_nothing(experiment: Experiment, postgres: Postgres) -> None:
    [refused] = experiment.printed[0].splitlines()
    assert refused.startswith(f"ssmrank tracking-store: error: {experiment.uri}: MLflow's store does not ")
    assert experiment.journals() == []
    counted = postgres.query(
        DATABASE, "SELECT name, status, count(*), count(DISTINCT step) FROM metrics JOIN runs USING (run_uuid) "
        "WHERE key = 'loss' GROUP BY 1, 2"
    )  # fmt: skip
    assert counted == [("firstp/tiny-mamba2", "FINISHED", STEPS, STEPS)]
    assert experiment.printed[2] == ""


def test_mlflow_s_client_has_metrics_parameters_and_the_model(experiment: Experiment, s3: S3) -> None:
    folder = experiment.project.folder
    run = experiment.runs()["firstp/tiny-mamba2"]
    assert (run.data.params["learning_rate"], run.data.params["epochs"]) == ("0.001", f"{EPOCHS}.0")
    written = json.loads((folder / metrics_of("tiny-mamba2")).read_text())
    [ndcg] = [value for name, value in run.data.metrics.items() if name.endswith("nDCG_at_10")]
    assert ndcg == written["mean"]["nDCG@10"]
    assert run.info.artifact_uri.startswith(f"s3://{experiment.bucket}/models/")
    model = run.data.tags["ssmrank.model"].removeprefix("models:/")
    weights = {key.rsplit("/")[-1]: key for key in s3.keys(experiment.bucket, f"models/models/{model}/")}
    for file in (folder / "results/checkpoints/firstp/tiny-mamba2").glob("*.safetensors"):
        content = s3.read(experiment.bucket, weights[file.name])
        assert hashlib.sha256(content).digest() == hashlib.sha256(file.read_bytes()).digest()


def test_a_silent_database_lets_a_training_end_well(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run succeeds and prints one line; the journals stay, and go to the database when it answers."""
    project = experiment.project
    overlay = project.folder / "short.yaml"
    overlay.write_text("trainings: {firstp: {epochs: 1}}\n")
    command = ["snakemake", "--cores", "2", metrics_of("tiny-bert"), "--configfile", overlay.name]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        address = f"postgresql://u:secret@127.0.0.1:{listener.getsockname()[1]}/mlflow"
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", address)
            patch.setenv("PGCONNECT_TIMEOUT", "1")
            printed = project.run(*command).stdout
    experiment.printed.append(printed)
    [line] = [line for line in printed.splitlines() if line.startswith("warning: ")]
    assert "warning: not all of this run is in MLflow yet (ssmrank tracking-store: error: postgresql://u:***@" in line
    assert line.endswith("set tracking.uri); the next run tries again from results/tracking")
    assert "secret" not in printed and "Traceback" not in printed
    assert len(experiment.journals()) >= 3  # training, reranking and evaluation
    printed = project.run(*command).stdout
    experiment.printed.append(printed)
    assert "Nothing to be done" in printed and "warning" not in printed and experiment.journals() == []
    run = experiment.runs()["firstp/tiny-bert"]
    assert (run.info.status, run.data.params["epochs"]) == ("FINISHED", "1.0")
    assert any(name.endswith("nDCG_at_10") for name in run.data.metrics)


def test_no_file_and_no_line_has_the_password(experiment: Experiment) -> None:
    files = [path for path in experiment.project.folder.rglob("*") if path.is_file()]
    written = [*(path.read_bytes() for path in files), *(text.encode() for text in experiment.printed)]
    assert not any(form.encode() in text for text in written for form in (PASSWORD, quote(PASSWORD, safe="")))


@pytest.fixture
def page(
    postgres: Postgres, with_tables: str, servers: None, s3: S3, tmp_path: Path
) -> Iterator[tuple[str, subprocess.Popen, str]]:
    """MLflow's server in front of a database and a bucket: its address, process and bucket."""
    port, bucket = free_port(), s3.bucket()
    store = [
        "--backend-store-uri",
        postgres.database("served", with_tables),
        "--artifacts-destination",
        f"s3://{bucket}",
    ]
    server = start(
        [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port), *store],
        tmp_path / "log",
        os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health") or server.poll() is not None, "mlflow server")
        assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
        yield f"http://me:secret@127.0.0.1:{port}", server, bucket
    finally:
        stop(server)


def test_mlflow_s_own_server(
    page: tuple[str, subprocess.Popen, str],
    root: Path,
    s3: S3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Runs and models go through it without any credentials of the database or the bucket; without it, one line."""
    address, server, bucket = page
    journals = tmp_path / "journals"
    for name in ("PGPASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "served")
    monkeypatch.setenv("SSMRANK_TRACKING_JOURNALS", str(journals))
    with track("train", "mamba2") as training:
        training.metrics({"loss": 1.0}, step=3)
        training.artifact_path("checkpoint", root / "models/minis/mamba2")
    assert deliver(journals, address, "served") == 1 and not list(journals.iterdir())
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    [run] = client.search_runs([client.get_experiment_by_name("served").experiment_id])
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})
    model = run.data.tags["ssmrank.model"].removeprefix("models:/")
    assert any(f"/{model}/artifacts/MLmodel" in key for key in s3.keys(bucket))
    assert "secret" not in (printed := capsys.readouterr()).out + printed.err
    stop(server)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with track("train", "mamba2"):
        pass
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind(("127.0.0.1", urlsplit(address).port))
        for listens in (False, True):
            if listens:
                silent.listen(100)
            assert cli.main(["tracking-store", "--journals", str(journals)]) == 2
            [line] = capsys.readouterr().err.splitlines()
            shown = address.replace("secret", "***")
            assert line.startswith(f"ssmrank tracking-store: error: {shown}: MLflow's store does not work: ")
            assert "secret" not in line
            assert len(list(journals.glob("*.jsonl"))) == 1
