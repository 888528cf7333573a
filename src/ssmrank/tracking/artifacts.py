"""Trained rerankers as models of MLflow, and the folder or bucket that they are kept in."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ssmrank.config.addresses import masked
from ssmrank.errors import UserError, reason_of
from ssmrank.io.model_files import TRAINED_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MODELS = "SSMRANK_TRACKING_MODELS"
"""Environment variable: `path` (the default), `copy` or `none`, what is kept of a training's checkpoint as a model."""

ARTIFACTS = "SSMRANK_TRACKING_ARTIFACTS"
"""Environment variable: where a new experiment keeps models, a folder or an address such as s3://bucket/folder."""

MODEL_TAG = "ssmrank.model"
"""The model of MLflow that a run's checkpoint is."""

_BUCKET_SECONDS = 10
"""How long a bucket's server may take to accept a connection, and to answer."""

_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to keys that may read and write it"


class NotKept(Exception):
    """A model could not be written now; a later delivery may succeed."""


def location(uri: str) -> str | None:
    """Where a new experiment keeps models: as set; else beside a database's file, or in this folder; None: as set by
    MLflow's server."""
    if given := os.environ.get(ARTIFACTS):
        return given if "://" in given else str(Path(given).resolve())
    if uri.startswith(("http:", "https:")):
        return None
    folder = Path(uri.removeprefix("sqlite:///").split("?")[0]).resolve().parent if _is_file(uri) else Path.cwd()
    return str(folder / "mlruns")


def check_location(uri: str, found: str, experiment: str) -> None:
    """Warns if an experiment keeps models elsewhere than set, because MLflow never moves them."""
    wanted = location(uri) if os.environ.get(ARTIFACTS) else None
    if wanted is not None and _plain(wanted) != _plain(found):
        said = f"experiment {experiment!r} keeps its models in {found}, not in {wanted}"
        log.warning("tracking: %s; for another place set tracking.experiment to a new name", said)


def log_model(client: MlflowClient, run_id: str, checkpoint: Path) -> None:
    """Logs a trained reranker as a model. Raises NotKept if it cannot be stored at the moment.

    What can never be a model is a warning, because the run itself is in the store. The run ends with that.
    """
    kept = os.environ.get(MODELS, "path")
    if kept == "none" or not (checkpoint / TRAINED_FILE).is_file():
        return
    place = client.get_experiment(client.get_run(run_id).info.experiment_id).artifact_location
    if elsewhere := _made_elsewhere(client.tracking_uri, place):
        reason = f"the store was made in {elsewhere} and would keep it there"
        log.warning("tracking: %s is no model in MLflow: %s", checkpoint, reason)
        return
    if place.startswith("s3://"):
        _check_bucket(place)
    import mlflow

    from ssmrank.integrations.mlflow import log_reranker

    try:
        # `start_run` ends the run too; its real end is set afterwards.
        with _active_store(client.tracking_uri), mlflow.start_run(run_id=run_id):
            client.set_tag(run_id, MODEL_TAG, log_reranker(checkpoint, copy=kept == "copy").model_uri)
    except UserError as error:
        log.warning("tracking: %s is no model in MLflow: %s", checkpoint, error)
    except Exception as error:  # MLflow and boto3 raise many types, and a run may be active in this process
        reason = masked(" ".join(str(error).split())[:300])
        raise NotKept(f"{place}: {checkpoint} cannot be written there as a model: {reason}") from error


@contextmanager
def _active_store(uri: str) -> Iterator[None]:
    """Inside, MLflow's functions use this store. Then the process has its own again, also in the environment."""
    import mlflow
    from mlflow.environment_variables import MLFLOW_TRACKING_URI as variable

    named = variable.get_raw()
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None if before == named else before)  # type: ignore[arg-type]
        if named is None:
            variable.unset()
        else:
            variable.set(named)


def _made_elsewhere(uri: str, place: str) -> Path | None:
    """The folder that a store was made in, if it is another than its present one and models would be kept there.

    The store remembers the folder of its models, so those of a moved or copied project would be written there.
    """
    folder = Path(place.removeprefix("file://"))
    if os.environ.get(ARTIFACTS) or uri.startswith(("http:", "https:")) or not folder.is_absolute():
        return None
    made = next((path.parent for path in (folder, *folder.parents) if path.name == "mlruns"), None)
    own = Path(str(location(uri))).parent
    return made if made is not None and made.resolve() != own else None


def _check_bucket(place: str) -> None:
    """Raises NotKept in bounded time where a bucket cannot be used; MLflow would wait for minutes."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    except ModuleNotFoundError as error:
        raise NotKept(f"{place}: needs {error.name}; pip install 'ssmrank[cluster]'") from error
    parts = urlsplit(place)
    try:
        _bucket_client().list_objects_v2(Bucket=parts.netloc, Prefix=parts.path.strip("/"), MaxKeys=1)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        advice = "create the bucket" if code == "NoSuchBucket" else _KEYS
        raise NotKept(f"{place}: cannot be used ({reason_of(error)}); {advice}") from error
    except BotoCoreError as error:
        advice = _KEYS if isinstance(error, NoCredentialsError) else "start its server, or set AWS_ENDPOINT_URL"
        raise NotKept(f"{place}: cannot be used ({reason_of(error)}); {advice}") from error


def _bucket_client() -> Any:
    import boto3
    from botocore.config import Config
    from mlflow.environment_variables import (
        MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE,
        MLFLOW_S3_ENDPOINT_URL,
        MLFLOW_S3_IGNORE_TLS,
    )

    style = MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE.get()
    limits = {"connect_timeout": _BUCKET_SECONDS, "read_timeout": _BUCKET_SECONDS, "retries": {"total_max_attempts": 2}}
    return boto3.client(
        "s3",
        config=Config(s3={"addressing_style": style}, **limits),
        endpoint_url=MLFLOW_S3_ENDPOINT_URL.get(),
        verify=False if MLFLOW_S3_IGNORE_TLS.get() else None,
    )


def _is_file(uri: str) -> bool:
    return uri.startswith("sqlite:///")


def _plain(place: str) -> str:
    return place.removeprefix("file://").rstrip("/")
