"""Compares runs with ranx: the means of metrics, a test of each pair of runs, and wins, ties and losses.

Values are those of `ssmrank.evaluation.metrics`. ranx computes values, tests and report; here its input is made:

- ranx orders equal scores as they were inserted, in double precision. It gets scores that fall by one with each rank of
  `read_run`, so ties count as in trec_eval.
- Queries that a run lacks count 0, and queries without judgments are left out.
- Grades below 0 become 0, as trec_eval has no negative gains.
- Its randomization test seeds the thread that starts a loop, not the one that draws, so p values would change. Loops
  run on one thread, which is seeded before.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssmrank.config.comparison_settings import MOST_RUNS, ComparisonSettings, deepest, ranx_metric
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.io.trec import Qrels, Run, is_out_of_memory, read_qrels, read_run

log = logging.getLogger(__name__)

_RESERVED = ("stat_test", "metrics", "model_names")
"""Keys of the JSON report beside the runs' labels."""


def compare_files(
    settings: ComparisonSettings, qrels: Path, runs: Mapping[str, Path], *, text: Path, values: Path | None
) -> None:
    """Writes ranx's report on labelled TREC runs as text, and as JSON to `values`.

    Runs of models that did not fit into memory are left out. Raises UserError as `compare_runs` does.
    """
    fitting = {label: path for label, path in runs.items() if not is_out_of_memory(path)}
    for label in runs.keys() - fitting.keys():
        log.warning("%s: the model of %s did not fit in memory; it is left out", runs[label], label)
    check_labels(list(fitting))
    judgments, depth = read_qrels(qrels), deepest(settings.metrics)
    if not judgments:
        raise UserError(f"{qrels}: has no judgments; check the file")
    found = {label: read_run(path, depth) for label, path in fitting.items()}
    for label, run in found.items():
        if not judgments.keys() & run.keys():
            raise UserError(f"{fitting[label]}: has none of the {len(judgments)} queries of {qrels}; leave the run out")
    report, record = compare_runs(settings, judgments, found)
    if values is not None:
        with atomic_file(values) as stream:
            stream.write(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    with atomic_file(text) as stream:
        stream.write(report + "\n")
    log.info(
        "%s: %d runs, %d queries, test %s at level %g", text, len(found), len(judgments), settings.test, settings.alpha
    )


def check_labels(labels: list[str]) -> None:
    """Raises UserError unless ranx can report on runs with these labels."""
    if len(labels) < 2:
        raise UserError(f"{len(labels)} runs to compare; give two or more")
    if len(labels) > MOST_RUNS:
        raise UserError(f"{len(labels)} runs to compare, but a report of ranx has at most {MOST_RUNS}; leave some out")
    for label in labels:
        if label in _RESERVED:
            raise UserError(f"a run cannot have the label {label!r}, which is a key of ranx's report; rename it")


def compare_runs(settings: ComparisonSettings, qrels: Qrels, runs: Mapping[str, Run]) -> tuple[str, dict[str, Any]]:
    """ranx's report on labelled runs: its table, and its `to_dict`. A p value that is not a number becomes None.

    Student's test has none for two runs with equal values for all queries. Rankings are as `read_run` returns them, and
    each run has at least one document for the queries of the qrels.
    """
    log.info("ranx compares %d runs; on its first use it compiles, which takes about a minute", len(runs))
    # Not at the top: it takes seconds, and sets numba's threads for the whole process.
    import ranx

    judged = {query: {document: max(grade, 0) for document, grade in own.items()} for query, own in qrels.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its compiler's, and SciPy's about equal values
        if settings.test == "fisher":
            _seed_loops(settings.seed)
        report = ranx.compare(
            ranx.Qrels(judged),
            [ranx.Run(_by_rank(run, qrels), name=label) for label, run in runs.items()],
            [ranx_metric(name) for name in settings.metrics],
            stat_test=settings.test,
            n_permutations=settings.permutations,
            max_p=settings.alpha,
            random_seed=settings.seed,
            threads=1,
            rounding_digits=4,
        )
    return str(report), _plain(report.to_dict())


def _seed_loops(seed: int) -> None:
    """Leaves numba one thread for loops, with its random numbers seeded."""
    from numba import njit, prange, set_num_threads

    set_num_threads(1)

    def seed_thread(seed: int, times: int) -> None:
        for _ in prange(times):
            np.random.seed(seed)

    njit(parallel=True)(seed_thread)(seed, 1)


def _by_rank(run: Run, qrels: Qrels) -> dict[str, dict[str, float]]:
    """For each query of the qrels its documents with scores that fall by one; none where the run lacks the query."""
    rankings = {query: run.get(query, []) for query in qrels}
    return {
        query: {document: float(len(ranking) - rank) for rank, (document, _) in enumerate(ranking)}
        for query, ranking in rankings.items()
    }


def _plain(value: Any) -> Any:
    """A report as JSON has it: NumPy's numbers as Python's, and None for what is not a number."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    return value
