"""MLflow's store in PostgreSQL and its models in S3: nothing is lost, written twice, or waited for without end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.postgres import PASSWORD, Postgres
from cluster.s3 import S3
from ssmrank import cli
from ssmrank.tracking import database, track
from ssmrank.tracking.store import deliver

EXPERIMENT = "ssmrank"

METRICS = "SELECT name, key, count(*), count(DISTINCT step) FROM metrics JOIN runs USING (run_uuid) GROUP BY 1, 2"

JOBS = """
import multiprocessing, sys
from ssmrank.startup import importing
from ssmrank.tracking import first_stage, track
with importing():  # once for all, and so that all are at the store at the same time
    import mlflow.store.tracking.sqlalchemy_store
fork = multiprocessing.get_context("fork")
ready = fork.Barrier(8)

def job(number):
    ready.wait()
    with track("train", number, {"model": "mamba2"}, {"lr": 0.1}) as tracked:
        for step in range(500):
            tracked.metrics({"loss": float(step), "rate": 1.0}, step=step)
    with track("evaluate", "bm25", resume=first_stage("bm25")) as tracked:
        tracked.metrics({f"tiny/test{number}/nDCG@10": 0.5})

jobs = [fork.Process(target=job, args=(str(number),)) for number in range(8)]
for one in jobs:
    one.start()
for one in jobs:
    one.join()
print(*(one.exitcode for one in jobs))
"""


@pytest.fixture
def uri(postgres: Postgres, with_tables: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a database of the test's own, with MLflow's tables; the password is in the environment."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return postgres.database(f"test{abs(hash(request.node.name))}", with_tables)


@pytest.fixture
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that jobs write their journals to."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "set")
    monkeypatch.setenv("SSMRANK_TRACKING_JOURNALS", str(tmp_path / "journals"))
    return tmp_path / "journals"


def run_of(uri: str, key: str):
    """The one run with this key, through MLflow's client."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    [run] = client.search_runs([experiment.experiment_id], f"tags.`ssmrank.run` = '{key}'")
    return run


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield listener.getsockname()[1]


def test_eight_processes_write_at_once_to_an_empty_database(postgres: Postgres, tmp_path: Path) -> None:
    """Tables, the experiment and a run that all write to are made once, and every metric is there once."""
    uri = postgres.database("eight")
    environment = {name: value for name, value in os.environ.items() if name != "SSMRANK_TRACKING_JOURNALS"}
    environment |= {"MLFLOW_TRACKING_URI": uri, "PGPASSWORD": PASSWORD, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", JOBS], env=environment, capture_output=True, text=True, timeout=240)
    assert (done.stdout.split(), done.stderr) == (["0"] * 8, "")
    counts = {(name, key): numbers for name, key, *numbers in postgres.query("eight", METRICS)}
    trained = {(str(n), key): [500, 500] for n in range(8) for key in ("loss", "rate")}
    assert counts == trained | {("bm25", f"tiny/test{n}/nDCG_at_10"): [1, 1] for n in range(8)}
    assert postgres.query("eight", "SELECT status, count(*) FROM runs GROUP BY 1") == [("FINISHED", 9)]
    assert not list(tmp_path.rglob("*.jsonl"))


def test_two_deliveries_of_a_folder_write_it_once(postgres: Postgres, uri: str, journals: Path) -> None:
    for number in range(20):
        with track("train", str(number)) as tracked:
            for step in range(100):
                tracked.metrics({"loss": float("nan") if step == 50 else step}, step=step)
    command = [sys.executable, "-m", "ssmrank", "tracking-store", "--journals", str(journals)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
    deliveries = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [delivery.communicate()[1] for delivery in deliveries]
    assert [delivery.returncode for delivery in deliveries] == [0, 0] and not any(said), said
    name = uri.rsplit("/")[-1]
    assert {(run, *numbers) for run, _, *numbers in postgres.query(name, METRICS)} == {
        (str(number), 100, 100) for number in range(20)
    }
    assert not list(journals.iterdir())


def test_what_postgresql_alone_refuses_in_a_text(uri: str, journals: Path) -> None:
    with track("train", "a", {"note": "a\0b"}, {"title": "\ud800"}) as tracked:
        pass
    assert deliver(journals, uri, EXPERIMENT) == 1
    run = run_of(uri, tracked.run_id)
    assert (run.data.tags["note"], run.data.params["title"]) == ("a\N{REPLACEMENT CHARACTER}b", "?")


def test_a_delivery_that_was_cut_off_is_repeated(uri: str, journals: Path) -> None:
    with track("train", "a") as tracked:
        tracked.metrics({"loss": 2.0}, step=0)
        deliver(journals, uri, EXPERIMENT)
        for mark in journals.glob("*.delivered"):
            mark.unlink()
        tracked.metrics({"loss": 1.0}, step=1)
    assert deliver(journals, uri, EXPERIMENT) == 1
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri=uri).get_metric_history(run_of(uri, tracked.run_id).info.run_id, "loss")
    assert [point.value for point in history] == [2.0, 1.0]


def refused(capsys: pytest.CaptureFixture[str], journals: Path, uri: str) -> str:
    """The one line that a delivery ends with; the journal stays as it was, and no password is said."""
    with track("train", "a") as tracked:
        tracked.metrics({"loss": 1.0})
    [journal] = journals.iterdir()
    text = journal.read_text()
    os.environ["MLFLOW_TRACKING_URI"] = uri
    assert cli.main(["tracking-store", "--journals", str(journals)]) == 2
    assert list(journals.iterdir()) == [journal] and journal.read_text() == text
    said = capsys.readouterr().err
    assert PASSWORD not in said and "secret" not in said
    [line] = said.splitlines()
    return line.removeprefix("ssmrank tracking-store: error: ")


def test_a_server_that_does_not_listen(
    uri: str, journals: Path, silent: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        line = refused(capsys, journals, f"postgresql://u:secret@127.0.0.1:{port}/mlflow")
    shown = f"postgresql://u:***@127.0.0.1:{port}/mlflow"
    advice = "start the server, or set tracking.uri"
    assert line == f"{shown}: MLflow's store does not answer (Connection refused); {advice}"


def test_a_server_that_is_silent(
    journals: Path, silent: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "1")
    address = f"postgresql://u@127.0.0.1:{silent}/mlflow"
    line = refused(capsys, journals, address)
    assert line == (
        f"{address}: MLflow's store does not answer (no answer for 1 seconds); start the server, or set tracking.uri"
    )


def test_a_server_that_falls_silent(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssmrank.tracking.store import _store_errors

    monkeypatch.setattr(database, "ANSWER_SECONDS", 1)
    with (
        pytest.raises(database.UserError, match=r"store does not work: .*no answer for 1 seconds"),
        _store_errors(uri),
        database.turns(uri) as free,
    ):
        assert free._connection is not None
        free._connection.exec_driver_sql("SELECT pg_sleep(600)")


def test_a_turn_that_does_not_come(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssmrank.tracking.store import _store_errors

    monkeypatch.setattr(database, "TURN_SECONDS", 1)
    with (
        database.turns(uri) as one,
        one.turn(),
        pytest.raises(database.UserError, match="lock timeout"),
        _store_errors(uri),
        database.turns(uri) as other,
        other.turn(),
    ):
        pass


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password(
    uri: str, journals: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("PGPASSWORD", password)
    monkeypatch.setenv("PGPASSFILE", str(journals.parent / "absent"))
    line = refused(capsys, journals, uri)
    reason = (
        'FATAL:  password authentication failed for user "ssmrank"' if password else "fe_sendauth: no password supplied"
    )
    advice = "set PGPASSWORD, or write it into ~/.pgpass"
    assert line == f"{uri}: MLflow's store refuses the password ({reason}); {advice}"


def test_a_password_in_a_file(
    uri: str, journals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: Postgres
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    (tmp_path / "pgpass").write_text(f"127.0.0.1:{postgres.port}:*:*:{PASSWORD.replace(':', chr(92) + ':')}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    with track("train", "a"):
        pass
    assert deliver(journals, uri, EXPERIMENT) == 1


def test_a_database_that_is_not_there(
    uri: str, postgres: Postgres, journals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, journals, address := postgres.address("absent"))
    reason = 'FATAL:  database "absent" does not exist'
    assert line == f"{address}: MLflow's store is missing ({reason}); create the database, or set tracking.uri"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "postgres://u:secret@127.0.0.1/d",
            "postgres://u:***@127.0.0.1/d: write postgresql:// in place of postgres://",
        ),
        ("postgresql://u:se#cret@127.0.0.1:port/d", "postgresql://u:***@127.0.0.1:port/d: is no address of a database"),
        ("postgresql+none://u:secret@h/d", "postgresql+none://u:***@h/d: is no address of a database"),
        ("postgresql+pg8000://u:secret@h/d", "postgresql+pg8000://u:***@h/d: needs pg8000; pip install"),
    ],
)
def test_addresses_that_cannot_be_used(
    journals: Path, capsys: pytest.CaptureFixture[str], address: str, said: str
) -> None:
    assert refused(capsys, journals, address).startswith(said)


def test_psycopg2_that_is_not_installed(
    uri: str, journals: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    assert refused(capsys, journals, uri) == f"{uri}: needs psycopg2; pip install 'ssmrank[cluster]'"


@pytest.fixture
def training(root: Path, journals: Path) -> str:
    """The key of the run of a finished training, whose checkpoint is a model."""
    with track("train", "mamba2") as tracked:
        tracked.metrics({"loss": 1.0})
        tracked.artifact_path("checkpoint", root / "models/minis/mamba2")
    assert tracked.run_id is not None
    return tracked.run_id


def test_a_model_waits_for_its_bucket(
    uri: str,
    training: str,
    journals: Path,
    s3: S3,
    silent: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metrics are delivered; the journal stays until the model can be written, and then it is written once."""
    bucket = s3.bucket()
    monkeypatch.setenv("SSMRANK_TRACKING_ARTIFACTS", f"s3://{bucket}/models/")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "in S3")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("ssmrank.tracking.artifacts._BUCKET_SECONDS", 1)
    for name, value in s3.no_credentials.items():
        monkeypatch.setenv(name, value)

    def line() -> str:
        assert cli.main(["tracking-store", "--journals", str(journals)]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1, said
        end = "; metrics are in MLflow, and the journal stays for the model\n"
        assert said.endswith(end) and len(list(journals.glob("*.jsonl"))) == 1
        return said.removesuffix(end)

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert "Unable to locate credentials); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in line()
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent}")
    assert "Read timeout on endpoint" in line()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    s3.client.delete_bucket(Bucket=bucket)
    assert f"s3://{bucket}/models/: cannot be used" in (said := line()) and said.endswith("; create the bucket")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "botocore.exceptions", None)
        assert "pip install 'ssmrank[cluster]'" in line()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("in S3")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 1.0})
    s3.client.create_bucket(Bucket=bucket)
    assert cli.main(["tracking-store", "--journals", str(journals)]) == 0
    [model] = client.search_logged_models([experiment.experiment_id])
    assert client.get_run(run.info.run_id).data.tags["ssmrank.model"] == f"models:/{model.model_id}"
    assert f"models/models/{model.model_id}/artifacts/MLmodel" in s3.keys(bucket)
    assert client.get_run(run.info.run_id).info.end_time == run.info.end_time
    assert not list(journals.iterdir())


def test_an_experiment_with_models_elsewhere_is_a_warning(
    uri: str, training: str, journals: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSMRANK_TRACKING_MODELS", "none")
    monkeypatch.setenv("SSMRANK_TRACKING_ARTIFACTS", "s3://new/models")
    assert deliver(journals, uri, EXPERIMENT) == 1
    [record] = caplog.records
    assert f"keeps its models in {Path.cwd()}/mlruns, not in s3://new/models" in record.getMessage()
