import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir, "workflow", "lib")))

from pipeline.code import code, digest
from pipeline.experiment import fill, read_experiment
from pipeline.environment import deliver_journals, prepare
from pipeline.provenance import digests, reconcile

experiment = read_experiment(config, " + ".join(dict.fromkeys(["params.yaml", *map(str, workflow.configfiles)])))

prepare(experiment.params.tracking)


wildcard_constraints:
    **dict.fromkeys(
        ["collection", "split", "model", "stemmer", "retriever", "negatives", "training", "reranking", "table"],
        r"[A-Za-z0-9][A-Za-z0-9.-]*",
    ),
