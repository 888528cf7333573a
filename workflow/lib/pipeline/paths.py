"""Paths of everything that the rules make; their wildcards are those of `items`.

Each pattern is defined only here. The functions are `ssmrank.jobs.places.Places`.
"""

from __future__ import annotations

FIRST_STAGE = "{collection}/{split}/{retriever}"
RERANKED = "{collection}/{split}/{reranking}/{training}/{model}"
FUSED = f"{RERANKED}/{{fusion}}"
"""Names of runs. What is made from a run has the same name in another folder."""

ARCHIVES = "data/archives"
COLLECTION = "data/collections/{collection}"
QRELS = f"{COLLECTION}/splits/{{split}}/qrels.txt"
MODELS = "data/models"
MODEL = f"{MODELS}/{{model}}"

INDEX = "data/indexes/{collection}/{stemmer}"
VECTORS = "data/indexes/{collection}/vectors-{encoder}"
VECTOR_INDEX = "data/indexes/{collection}/faiss-{retriever}"

TOKENIZER = "data/pretraining/{pretraining}/tokenizer"
TOKENS = "data/pretraining/{pretraining}/tokens"
SWEEP = "results/pretraining/{pretraining}/sweeps/{model}.json"
PRETRAINED = "results/pretraining/{pretraining}/models/{model}"
PUBLISHED = "results/pretraining/{pretraining}/published/{model}"

FIRST_STAGE_RUN = f"results/runs/first-stage/{FIRST_STAGE}.trec"
FIRST_STAGE_WEIGHTS = f"results/fusions/first-stage/{FIRST_STAGE}.json"
RERANKED_RUN = f"results/runs/reranked/{RERANKED}.trec"
FUSED_RUN = f"results/runs/fused/{FUSED}.trec"
FUSED_WEIGHTS = f"results/fusions/reranked/{FUSED}.json"
NEGATIVES = "results/negatives/{collection}/{split}/{negatives}.jsonl"
TAUGHT = "results/teaching/{collection}/{split}/{negatives}/{teacher}.jsonl"
CHECKPOINT = "results/checkpoints/{training}/{model}"

METRICS = "results/metrics"
PER_QUERY = "results/per-query"
"""Folders of what is known of runs, where RUN.json has the run's name."""

TABLE = "results/tables/{table}"
SIGNIFICANCE = "results/tables/significance/{table}.csv"
COMPARISON = "results/comparisons/{comparison}"
COSTS = "results/tables/costs/{table}.json"
TABLES_PDF = "results/tables/tables.pdf"
THROUGHPUT = "results/throughput/{suite}.csv"

DIFFERENCES = "results/figures/differences/{table}"
CURVES = "results/figures/training/{training}"
PRETRAINING_FIGURE = "results/figures/pretraining-{pretraining}.pdf"
EFFICIENCY_FIGURE = "results/figures/efficiency.pdf"
TOKEN_FIGURE = "results/figures/tokens/{table}"
THROUGHPUT_FIGURE = "results/figures/figure1.pdf"

STATE = "results/state"
LOGS = "results/logs"
JOURNALS = "results/tracking"
"""Folder of the journals that jobs write for MLflow."""

PROVENANCE = "results/provenance"


def log_of(step: str, item: str = "") -> str:
    """The log of a step's job; `item` is a pattern of what it makes."""
    return f"{LOGS}/{step}/{item}.log" if item else f"{LOGS}/{step}.log"


def benchmark_of(step: str, item: str = "") -> str:
    """Snakemake's measurements of a step's job; `item` as in `log_of`."""
    return f"results/benchmarks/{step}/{item}.tsv" if item else f"results/benchmarks/{step}.tsv"


def metrics_of(run: str) -> str:
    """The file of a run's metrics; `run` may be a pattern."""
    return f"{METRICS}/{run}.json"


def per_query_of(run: str) -> str:
    """The file of a run's metrics for each query; `run` may be a pattern."""
    return f"{PER_QUERY}/{run}.json"


def run_of(run: str) -> str:
    """The file of a run, which is named as in `ssmrank.jobs.places.Places`."""
    kinds = {pattern.count("/"): pattern for pattern in (FIRST_STAGE, RERANKED, FUSED)}
    files = {FIRST_STAGE: FIRST_STAGE_RUN, RERANKED: RERANKED_RUN, FUSED: FUSED_RUN}
    pattern = kinds[run.count("/")]
    return files[pattern].replace(pattern, run)


def speed_of(run: str) -> str:
    """The file of the speed at which a run was made."""
    return f"results/speed/{run}.json"


def tokens_of(run: str) -> str:
    """The file of the number of tokens that a run took."""
    return f"results/tokens/{run}.json"


def checkpoint_of(training: str, model: str) -> str:
    """The folder of a trained reranker."""
    return CHECKPOINT.format(training=training, model=model)


def pretrained_of(pretraining: str, model: str) -> str:
    """The folder of a pretrained language model."""
    return PRETRAINED.format(pretraining=pretraining, model=model)
