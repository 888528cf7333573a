"""MLflow's store: made once, written by one process at a time, with one run for a training and its evaluations."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from ssmrank import cli
from ssmrank.errors import UserError
from ssmrank.tracking import first_stage, track
from ssmrank.tracking.store import create, deliver
from tracking_state import mlflow_as_it_was

EXPERIMENT = "tests"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store, created once."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    create(uri, EXPERIMENT)
    return uri


@pytest.fixture
def journals(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    monkeypatch.setenv("SSMRANK_TRACKING_JOURNALS", str(tmp_path / "journals"))
    return tmp_path / "journals"


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def run_of(uri: str, key: str):
    mlflow = client(uri)
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    [run] = mlflow.search_runs([experiment.experiment_id], f"tags.`ssmrank.run` = '{key}'")
    return run


def test_a_training_and_its_evaluation_are_one_run(uri: str, journals: Path) -> None:
    with track("train", "firstp/minilm", {"model": "minilm"}, {"lr": 0.1, "nested": {"a": 1}}) as training:
        for step in range(2500):
            training.metrics({"loss": 1 / (step + 1)}, step=step)
    with track(
        "evaluate", "other", {"rule": "evaluate", "collection": "tiny"}, {"lr": 0.2}, training.run_id
    ) as tracked:
        tracked.metrics({"tiny/test/nDCG@10": 0.5})
    assert tracked.run_id == training.run_id
    assert deliver(journals, uri, EXPERIMENT) == 2
    run = run_of(uri, training.run_id)
    assert run.info.run_name == "firstp/minilm"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "nested.a": "1"}
    assert run.data.metrics == {"loss": 1 / 2500, "tiny/test/nDCG_at_10": 0.5}
    assert run.data.tags["rule"] == "train"
    assert run.data.tags["model"] == "minilm"
    assert run.data.tags["collection"] == "tiny"
    history = client(uri).get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == list(range(2500))
    assert list(journals.iterdir()) == []


def test_an_evaluation_whose_run_is_unknown_makes_one(uri: str, journals: Path) -> None:
    with track("evaluate", "run.trec", resume="0" * 32) as tracked:
        tracked.metrics({"nDCG@10": 0.25})
    deliver(journals, uri, EXPERIMENT)
    assert run_of(uri, "0" * 32).data.metrics == {"nDCG_at_10": 0.25}


def test_evaluations_of_a_first_stage_are_one_run_as_old_as_it_is(uri: str, journals: Path) -> None:
    for split, value in (("dl19", 0.5), ("dl20", 0.4)):
        with track("evaluate", "bm25", resume=first_stage("bm25"), began=1000.0) as tracked:
            tracked.metrics({f"tiny/{split}/nDCG@10": value})
    deliver(journals, uri, EXPERIMENT)
    run = run_of(uri, first_stage("bm25"))
    assert run.data.metrics == {"tiny/dl19/nDCG_at_10": 0.5, "tiny/dl20/nDCG_at_10": 0.4}
    assert (run.info.run_name, run.info.start_time, run.info.end_time) == ("bm25", 1_000_000, 1_000_000)


def test_the_page_has_a_view_of_metrics(uri: str, journals: Path) -> None:
    with track("train", "firstp/mini", {"collection": "tiny"}, resume="view") as tracked:
        tracked.metrics(
            {"loss": 1.0, "tiny/test/pairs": 5, "tiny/test/bm25/MAP": 0.5, "tiny/test/bm25/R(rel=2)@10": 0.5}
        )
    deliver(journals, uri, EXPERIMENT)
    experiment = client(uri).get_experiment_by_name(EXPERIMENT)
    columns = json.loads(experiment.tags["mlflow.sharedViewState.metrics"])["selectedColumns"]
    assert {"metrics.`tiny/test/bm25/MAP`", "metrics.`tiny/test/bm25/R_rel_2__at_10`", "tags.`collection`"} <= {
        *columns
    }
    assert not {"metrics.`loss`", "metrics.`tiny/test/pairs`"} & {*columns}
    link = f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=metrics"
    assert link in experiment.tags["mlflow.note.content"]


def test_the_view_of_hundreds_of_metrics_has_those_that_fit(
    uri: str, journals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with track("train", "firstp/mini") as tracked:
        tracked.metrics({f"{'a-long-collection' * 4}-{number:03}/test/bm25-top1000/MAP": 0.5 for number in range(300)})
    assert deliver(journals, uri, "many metrics") == 1
    experiment = client(uri).get_experiment_by_name("many metrics")
    columns = json.loads(experiment.tags["mlflow.sharedViewState.metrics"])["selectedColumns"]
    assert 50 < len(columns) < 300 and columns == sorted(columns)


def test_a_running_job_is_delivered_in_parts(uri: str, journals: Path) -> None:
    with track("train", "long") as tracked:
        tracked.metrics({"loss": 2.0}, step=0)
        assert deliver(journals, uri, EXPERIMENT) == 1
        assert run_of(uri, tracked.run_id).info.status == "RUNNING"
        assert deliver(journals, uri, EXPERIMENT) == 0
        tracked.metrics({"loss": 1.0}, step=1)
    deliver(journals, uri, EXPERIMENT)
    run = run_of(uri, tracked.run_id)
    assert run.info.status == "FINISHED"
    assert [point.value for point in client(uri).get_metric_history(run.info.run_id, "loss")] == [2.0, 1.0]


def test_a_killed_job_and_half_a_line(uri: str, journals: Path) -> None:
    journals.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    start = {"event": "start", "time": 1, "run": "f" * 32, "name": "killed", "tags": {}, "params": {}}
    start |= {"host": socket.gethostname(), "process": f"{gone.pid} 1"}
    metric = {"event": "metrics", "time": 2, "values": {"loss": 3.0}, "step": 0}
    (journals / "1-train-a.jsonl").write_text(json.dumps(start) + "\n" + json.dumps(metric) + '\n{"event": "met')
    deliver(journals, uri, EXPERIMENT)
    run = run_of(uri, "f" * 32)
    assert (run.info.status, run.data.metrics) == ("KILLED", {"loss": 3.0})
    assert list(journals.iterdir()) == []


@pytest.mark.slow
def test_four_jobs_at_once_on_a_store_that_is_not_there(tmp_path: Path) -> None:
    # MLflow is imported first, so that all four are at the store at the same time.
    code = (
        "import sys; from ssmrank.startup import importing; from ssmrank.tracking import track\n"
        "with importing(): from mlflow import MlflowClient\n"
        "with track('train', sys.argv[1]) as tracked: tracked.metrics({'loss': float(sys.argv[1])})\n"
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {name: value for name, value in os.environ.items() if name != "SSMRANK_TRACKING_JOURNALS"}
    environment |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": EXPERIMENT}
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(number)], env=environment, stderr=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    said = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 4, said
    mlflow = client(uri)
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    runs = mlflow.search_runs([experiment.experiment_id])
    assert sorted(run.data.metrics["loss"] for run in runs) == list(range(4)), said
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_the_subcommand(uri: str, journals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with track("index", "tiny/porter") as tracked:
        pass
    assert cli.main(["tracking-store"]) == 0
    assert cli.main(["tracking-store", "--journals", str(journals)]) == 0
    assert run_of(uri, tracked.run_id).info.status == "FINISHED"


def test_the_subcommand_without_a_store(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert cli.main(["tracking-store"]) == 2
    assert capsys.readouterr().err == (
        "ssmrank tracking-store: error: MLFLOW_TRACKING_URI is not set; set it, for example to sqlite:///mlflow.db\n"
    )


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create MLflow's store"):
        create(f"sqlite:///{tmp_path}/file/mlflow.db", EXPERIMENT)


START = {
    "event": "start",
    "time": 1,
    "run": "e" * 32,
    "name": "a",
    "tags": {},
    "params": {},
    "host": "h",
    "process": "1 1",
}
MALFORMED = {
    "empty": "",
    "no JSON": "no JSON\n",
    "no UTF-8": b"\xff\xfe\n",
    "no object": "[]\n",
    "another event first": '{"event": "end"}\n',
    "no run": json.dumps({key: value for key, value in START.items() if key != "run"}) + "\n",
    "a metric that is no number": json.dumps(START)
    + '\n{"event": "metrics", "time": 1, "step": 0, "values": {"loss": "low"}}\n',
    "an unknown state": json.dumps(START) + '\n{"event": "end", "time": 1, "status": "ENDED"}\n',
    "a name that MLflow refuses": json.dumps(START)
    + '\n{"event": "metrics", "time": 1, "step": 0, "values": {"../../x": 1.0}}\n',
    "nested without end": "[" * 100_000 + "\n",
}


def test_malformed_journals_are_set_aside_and_block_no_other(
    uri: str, journals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journals.mkdir()
    for number, text in enumerate(MALFORMED.values()):
        (journals / f"0-{number}.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    (journals / "0-folder.jsonl").mkdir()
    with track("train", "sound") as tracked:
        tracked.metrics({"loss": 1.0})
    with caplog.at_level("WARNING", "ssmrank"):
        assert deliver(journals, uri, EXPERIMENT) == 1
    assert run_of(uri, tracked.run_id).data.metrics == {"loss": 1.0}
    assert len(caplog.records) == len(MALFORMED) + 1
    assert all("set aside as 0-" in record.getMessage() for record in caplog.records)
    assert {path.suffix for path in journals.iterdir()} == {".malformed"}
    assert deliver(journals, uri, EXPERIMENT) == 0


@pytest.mark.parametrize("mark", ["", "12x"])
def test_a_torn_mark_of_what_was_delivered(uri: str, journals: Path, mark: str) -> None:
    with track("train", "long") as tracked:
        tracked.metrics({"loss": 2.0}, step=0)
        deliver(journals, uri, EXPERIMENT)
        [path] = journals.glob("*.delivered")
        path.write_text(mark)
    deliver(journals, uri, EXPERIMENT)
    run = run_of(uri, tracked.run_id)
    assert [point.value for point in client(uri).get_metric_history(run.info.run_id, "loss")] == [2.0]
    assert list(journals.iterdir()) == []


def models_of(uri: str, run) -> list:
    found = client(uri).search_logged_models([run.info.experiment_id])
    return [model for model in found if model.source_run_id == run.info.run_id]


def test_a_delivery_of_a_model_leaves_the_process_its_own_store(
    uri: str, journals: Path, root: Path, tmp_path: Path
) -> None:
    import mlflow

    with track("train", "firstp/mamba2", {"model": "mamba2"}) as training:
        training.artifact_path("checkpoint", root / "models/minis/mamba2")
    with mlflow_as_it_was():
        for number in range(2):  # MLflow looks at the variable as long as nobody has called set_tracking_uri
            os.environ["MLFLOW_TRACKING_URI"] = own = f"sqlite:///{tmp_path}/{number}.db"
            assert mlflow.get_tracking_uri() == own
            assert deliver(journals, uri, EXPERIMENT) == 1 - number
            assert os.environ["MLFLOW_TRACKING_URI"] == own
    assert len(models_of(uri, run_of(uri, training.run_id))) == 1


def test_a_training_s_checkpoint_is_a_model_once(uri: str, journals: Path, root: Path) -> None:
    with track("train", "firstp/mamba2", {"model": "mamba2"}) as training:
        training.artifact_path("checkpoint", root / "models/minis/mamba2")
    with track("evaluate", "mamba2", {"rule": "evaluate"}, resume=training.run_id) as tracked:
        tracked.metrics({"tiny/test/RR@10": 0.5})
    ended = int(time.time()) - 100
    for journal in journals.glob("*.jsonl"):
        events = [json.loads(line) for line in journal.read_text().splitlines()]
        journal.write_text("".join(json.dumps(event | {"time": 1000 * ended}) + "\n" for event in events))
    assert deliver(journals, uri, EXPERIMENT) == 2
    run = run_of(uri, training.run_id)
    [model] = models_of(uri, run)
    assert run.data.tags["ssmrank.model"] == f"models:/{model.model_id}" and run.info.status == "FINISHED"
    assert model.experiment_id == run.info.experiment_id
    assert ended <= run.info.end_time / 1000 < ended + 60, "the end is the job's, not that of the delivery"
    assert Path(model.artifact_location).is_relative_to(Path(uri.removeprefix("sqlite:///")).parent / "mlruns")
    with track("rerank", "mamba2", resume=training.run_id) as tracked:
        tracked.metrics({"pairs": 3})
    assert deliver(journals, uri, EXPERIMENT) == 1 and len(models_of(uri, run)) == 1


@pytest.mark.parametrize("reason", ["none", "failed", "no checkpoint", "a pretrained model"])
def test_what_is_no_model(
    uri: str, journals: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    checkpoint = root / "models/minis/mamba2"
    if reason == "none":
        monkeypatch.setenv("SSMRANK_TRACKING_MODELS", "none")
    elif reason == "a pretrained model":
        (tmp_path / "pretrained").mkdir()
        (tmp_path / "pretrained/model.safetensors").write_bytes(b"x")
        checkpoint = tmp_path / "pretrained"
    with pytest.raises(ValueError) if reason == "failed" else nullcontext(), track("train", "mamba2") as training:
        if reason != "no checkpoint":
            training.artifact_path("checkpoint", checkpoint)
        if reason == "failed":
            raise ValueError
    assert deliver(journals, uri, EXPERIMENT) == 1
    assert models_of(uri, run_of(uri, training.run_id)) == []


def test_a_model_that_cannot_be_kept_is_a_warning(
    uri: str, journals: Path, root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmrank.integrations.mlflow.sha256", lambda path: (_ for _ in ()).throw(UserError("unread")))
    with track("train", "mamba2") as training:
        training.artifact_path("checkpoint", root / "models/minis/mamba2")
    assert deliver(journals, uri, EXPERIMENT) == 1
    assert "models/minis/mamba2 is no model in MLflow: unread" in caplog.text
    assert run_of(uri, training.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("moved", [True, False])
def test_models_of_a_moved_or_copied_project_are_not_written_to_its_old_place(
    journals: Path,
    root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    moved: bool,
) -> None:
    create(f"sqlite:///{tmp_path}/old/mlflow.db", EXPERIMENT)
    (shutil.move if moved else shutil.copytree)(tmp_path / "old", tmp_path / "new")
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with track("train", "mamba2") as training:
        training.artifact_path("checkpoint", root / "models/minis/mamba2")
    assert deliver(journals, uri, EXPERIMENT) == 1
    assert f"the store was made in {tmp_path}/old and would keep it there" in caplog.text
    assert not (tmp_path / "old" / "mlruns").exists() and run_of(uri, training.run_id).info.status == "FINISHED"
