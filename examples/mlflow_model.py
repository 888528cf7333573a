"""Logs a checkpoint as a model of MLflow and scores with it: `python mlflow_model.py CHECKPOINT`.

Needs `pip install 'ssmrank[pipeline]'`. The store is a temporary one unless MLFLOW_TRACKING_URI names another.
"""

import os
import sys
import tempfile
from pathlib import Path

import mlflow
import pandas as pd

from ssmrank.integrations.mlflow import log_reranker

MINI = Path(__file__).resolve().parents[1] / "models" / "minis" / "mamba2"
QUERY = "sequence modeling with state spaces"
TEXTS = [
    "The river was cold in spring, and the boats stayed in the harbour.",
    "Mamba is a state space model that reads a sequence in linear time.",
]


def main() -> None:
    checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 else MINI
    with tempfile.TemporaryDirectory() as scratch:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{scratch}/mlflow.db")
            mlflow.set_experiment(experiment_id=mlflow.create_experiment("example", f"{scratch}/models"))
        with mlflow.start_run():
            logged = log_reranker(checkpoint)
        model = mlflow.pyfunc.load_model(logged.model_uri)
        scores = model.predict(pd.DataFrame({"query": QUERY, "document": TEXTS}))
    for score, text in zip(scores, TEXTS, strict=True):
        print(f"{score:6.2f}  {text}")


if __name__ == "__main__":
    main()
