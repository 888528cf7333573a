import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir, "workflow", "lib")))

from pipeline.code import code, digest
from pipeline.experiment import fill, read_experiment
from pipeline.provenance import digests

experiment = read_experiment(config, " + ".join(dict.fromkeys(["params.yaml", *map(str, workflow.configfiles)])))

TRACKING = "results/tracking"
DEFAULTS = {
    "MLFLOW_TRACKING_URI": experiment.params.tracking.uri,
    "MLFLOW_EXPERIMENT_NAME": experiment.params.tracking.experiment,
    "SSMRANK_TRACKING_JOURNALS": TRACKING,
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "true",
}
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)


wildcard_constraints:
    **dict.fromkeys(
        ["collection", "split", "model", "stemmer", "retriever", "negatives", "training", "reranking", "table"],
        r"[A-Za-z0-9][A-Za-z0-9.-]*",
    ),
