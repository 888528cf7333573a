"""A checkpoint as a model of MLflow, which `mlflow.pyfunc.load_model` and `mlflow models` load.

MLflow keeps a model as a folder with this module's name and a file or folder for `_load_pyfunc`: either a copy of the
checkpoint, or its path and the digests of its weights. A path costs nothing, and a checkpoint that was trained anew
since is refused.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import mlflow
except ModuleNotFoundError as error:
    if error.name != "mlflow":
        raise
    from ssmrank.integrations import missing

    raise missing("MLflow", "pipeline") from error

from ssmrank._version import __version__
from ssmrank.errors import UserError
from ssmrank.io.checksum import sha256
from ssmrank.io.model_files import TRAINED_FILE
from ssmrank.io.plain import read_json

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models.model import ModelInfo

    from ssmrank.api import Reranker

_COLUMNS = ("query", "document")


def log_reranker(checkpoint: str | os.PathLike[str], *, copy: bool = False, name: str = "reranker") -> ModelInfo:
    """Logs a checkpoint's folder as a model with a signature: strings `query` and `document` in, a number out.

    copy: MLflow's store gets a copy of the weights, and the model loads wherever the store is; otherwise it gets the
    path. The model belongs to the active run, or to a new one. Raises UserError if the folder holds no trained
    reranker.
    """
    from mlflow.models import Model

    folder = Path(checkpoint).resolve()
    weights = _digests(folder)
    if not weights or not (folder / TRAINED_FILE).is_file():
        raise UserError(f"{folder}: holds no trained reranker; give a checkpoint's folder")
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example")
        reference = Path(scratch) / "checkpoint.json"
        reference.write_text(json.dumps({"path": str(folder), "sha256": weights}, indent=2) + "\n", encoding="utf-8")
        return Model.log(
            artifact_path=None,
            name=name,
            flavor=mlflow.pyfunc,
            loader_module=__name__,
            data_path=str(folder if copy else reference),
            signature=_signature(),
            pip_requirements=[f"ssmrank=={__version__}"],
        )


class PairScorer:
    """What `mlflow.pyfunc.load_model` returns a wrapper of."""

    def __init__(self, reranker: Reranker) -> None:
        self.reranker = reranker

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[float]:
        """The score of each row; all rows are planned together."""
        from ssmrank.integrations.pairs import score_rows

        return score_rows(self.reranker, *(model_input[column].tolist() for column in _COLUMNS))


def _load_pyfunc(data_path: str) -> PairScorer:
    """MLflow calls this with the copy of a checkpoint, or with the file that has its path."""
    from ssmrank.api import Reranker

    given = Path(data_path)
    return PairScorer(Reranker.from_pretrained(given if given.is_dir() else _checkpoint_of(given)))


def _checkpoint_of(reference: Path) -> Path:
    found = read_json(reference, "log the model again")
    folder = Path(found["path"])
    if not folder.is_dir():
        raise UserError(f"model of MLflow: its checkpoint {folder} is gone; bring it back, or log models as copies")
    if _digests(folder) != found["sha256"]:
        raise UserError(
            f"model of MLflow: {folder} has other weights than when the model was logged, as it was trained again; "
            "load that training's model, or log models as copies"
        )
    return folder


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(Schema([ColSpec("string", name) for name in _COLUMNS]), Schema([ColSpec("double")]))
