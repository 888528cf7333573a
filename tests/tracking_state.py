"""MLflow's store and experiment of this process, which tests that set them give back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


@contextmanager
def mlflow_as_it_was() -> Iterator[None]:
    """Begins without a store or experiment; MLflow notes both in variables of the environment too."""
    import mlflow

    kept = {name: os.environ.pop(name) for name in _NAMES if name in os.environ}
    store, experiment = mlflow.get_tracking_uri(), mlflow.tracking.fluent._active_experiment_id
    mlflow.tracking.fluent._active_experiment_id = None
    try:
        yield
    finally:
        mlflow.set_tracking_uri(store)
        mlflow.tracking.fluent._active_experiment_id = experiment
        for name in _NAMES:
            os.environ.pop(name, None)
        os.environ.update(kept)
