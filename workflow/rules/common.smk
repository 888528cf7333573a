import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir, "workflow", "lib")))

import snakemake

from pipeline.package import check_package
from pipeline.version import check_snakemake

check_package(Path(workflow.basedir), config)
# Before anything that uses parts of Snakemake which another version may not have.
check_snakemake(snakemake.__version__)

from pipeline.alone import alone_while_running
from pipeline.code import code, script_code, state_of
from pipeline.contents import Contents
from pipeline.environment import deliver_journals, prepare, repeat_errors
from pipeline import paths
from pipeline.experiment import check_file, read_experiment
from pipeline.items import any_of, fill
from pipeline.paths import benchmark_of, log_of
from pipeline.provenance import Provenance
from ssmrank import jobs

STARTED = time.time()
contents = Contents(Path(".snakemake/contents.json"))
digests = contents.lines


wildcard_constraints:
    **dict.fromkeys(
        [
            "collection",
            "split",
            "model",
            "encoder",
            "retriever",
            "negatives",
            "teacher",
            "reranking",
            "fusion",
            "table",
            "pretraining",
        ],
        r"[A-Za-z0-9][A-Za-z0-9.-]*",
    ),
    stemmer="porter|krovetz|none",
    # One of several seeds of a training stands in its name.
    training=r"[A-Za-z0-9][A-Za-z0-9.-]*(@seed[0-9]+)?",
