import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir, "workflow", "lib")))

import snakemake

from pipeline.package import check_package
from pipeline.version import check_snakemake

check_package(Path(workflow.basedir), config)
# This comes before the imports that use parts of Snakemake which another version may lack.
check_snakemake(snakemake.__version__)

from pipeline.alone import alone_while_running
from pipeline.code import code, script_code, state_of
from pipeline.contents import Contents
from pipeline.deployment import check_deployment
from pipeline.environment import deliver_journals, prepare, repeat_errors
from pipeline import paths
from pipeline.experiment import check_file, read_experiment
from pipeline.items import any_of, fill
from pipeline.paths import benchmark_of, log_of
from pipeline.provenance import Provenance
from pipeline.storage import Storage
from ssmrank import jobs

STARTED = time.time()
contents = Contents(Path(".snakemake/contents.json"))
digests = contents.lines
storage_of_outputs = Storage(workflow)
copy_of = storage_of_outputs.copy_of
image = check_deployment(Path(workflow.basedir), workflow.deployment_settings, config)
if image:

    container: image


wildcard_constraints:
    **dict.fromkeys(
        [
            "collection",
            "split",
            "model",
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
    # The bi-encoder of a retriever that is trained here has the retriever's name.
    encoder=r"[A-Za-z0-9][A-Za-z0-9.-]*(@trained)?",
    stemmer="porter|krovetz|none",
    # A training with several seeds names the seed.
    training=r"[A-Za-z0-9][A-Za-z0-9.-]*(@seed[0-9]+)?",
