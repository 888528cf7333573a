"""A checkpoint as a model of MLflow, in a real SQLite store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from ssmrank.api import Reranker
from ssmrank.errors import UserError
from ssmrank.integrations.mlflow import log_reranker
from tracking_state import mlflow_as_it_was

pytestmark = pytest.mark.slow  # creating the store and logging to it take seconds

ROWS = [("fish in rivers", "Gills take oxygen from water."), ("fish in rivers", "Snow falls."), ("snow", "Snow falls.")]
FRAME = pd.DataFrame(ROWS, columns=["query", "document"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store with an experiment whose artifacts lie beside it."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    with mlflow_as_it_was():
        mlflow.set_tracking_uri(uri)
        mlflow.create_experiment("tests", artifact_location=str(folder / "artifacts"))
        mlflow.set_experiment("tests")
        yield uri


@pytest.fixture
def checkpoint(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root / "models" / "minis" / "mamba2", tmp_path / "firstp" / "mamba2"))


@pytest.mark.parametrize("copy", [False, True])
def test_a_logged_model_scores_as_the_reranker_does(store: str, checkpoint: Path, copy: bool) -> None:
    with mlflow.start_run() as run:
        logged = log_reranker(checkpoint, copy=copy)
    model = mlflow.get_logged_model(logged.model_id)
    assert model.source_run_id == run.info.run_id and model.name == "reranker"
    size = sum(path.stat().st_size for path in Path(model.artifact_location).rglob("*") if path.is_file())
    weights = (checkpoint / "model.safetensors").stat().st_size
    assert size > weights if copy else size < 20_000, "a reference copies no weights"
    loaded = mlflow.pyfunc.load_model(logged.model_uri)
    assert loaded.metadata.get_input_schema().input_names() == ["query", "document"]
    reranker = Reranker.from_pretrained(checkpoint)
    expected = [reranker.score(query, [document])[0] for query, document in ROWS]
    assert loaded.predict(FRAME) == pytest.approx(expected, abs=0.05 if reranker.precision == "bf16" else 1e-4)
    with pytest.raises(mlflow.exceptions.MlflowException, match="missing inputs"):
        loaded.predict(FRAME.rename(columns={"document": "text"}))
    shutil.rmtree(checkpoint)
    if copy:
        assert len(mlflow.pyfunc.load_model(logged.model_uri).predict(FRAME)) == 3
    else:
        with pytest.raises(UserError, match=r"its checkpoint .*firstp/mamba2 is gone; bring it back, or log"):
            mlflow.pyfunc.load_model(logged.model_uri)


def test_a_checkpoint_that_was_trained_again_is_not_taken_for_the_old_one(
    store: str, checkpoint: Path, root: Path
) -> None:
    with mlflow.start_run():
        logged = log_reranker(checkpoint)
    shutil.copy(root / "models" / "minis" / "mamba1" / "model.safetensors", checkpoint)
    with pytest.raises(UserError, match="has other weights than when the model was logged"):
        mlflow.pyfunc.load_model(logged.model_uri)


def test_mlflow_models_predicts_from_the_shell(store: str, checkpoint: Path, tmp_path: Path) -> None:
    with mlflow.start_run():
        logged = log_reranker(checkpoint, copy=True)
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps({"dataframe_records": FRAME.to_dict("records")}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", logged.model_uri, "-i", str(rows)]
    command += ["-t", "json", "--env-manager", "local", "-o", str(tmp_path / "scores.json")]
    subprocess.run(command, check=True, timeout=200, env=os.environ | {"MLFLOW_TRACKING_URI": store})
    found = json.loads((tmp_path / "scores.json").read_text())["predictions"]
    first, second, third = (row["0"] if isinstance(row, dict) else row for row in found)
    assert first > second and third > second


def test_a_folder_without_weights_is_one_line(store: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trained reranker; give a checkpoint"):
        log_reranker(tmp_path)


def test_without_mlflow_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['mlflow'] = None; import ssmrank.integrations.mlflow"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert finished.stderr.endswith("MLflow is not installed; pip install 'ssmrank[pipeline]'\n")
