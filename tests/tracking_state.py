"""MLflow's store and experiment of this process, which tests that set them give back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


@contextmanager
def mlflow_as_it_was() -> Iterator[None]:
    """Begins and ends without a store or experiment; MLflow notes both in variables of the environment too."""
    import mlflow

    kept = {name: os.environ[name] for name in _NAMES if name in os.environ}
    _forget(mlflow)
    try:
        yield
    finally:
        _forget(mlflow)
        os.environ.update(kept)


def _forget(mlflow) -> None:
    mlflow.set_tracking_uri(None)
    mlflow.tracking.fluent._active_experiment_id = None
    for name in _NAMES:
        os.environ.pop(name, None)
