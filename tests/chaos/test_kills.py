"""A run that is killed anywhere resumes with the same command and ends as if nothing had happened."""

from __future__ import annotations

import random
import shutil
import time

import pytest

from chaos.disturbed import ALONE, KILLS, Disturbed, can_unshare
from chaos.same import assert_same

PHASES = {
    "download_collection": ["data/collections"],
    "download_model": ["data/models"],
    "index": ["data/indexes"],
    "retrieve": ["results/runs/first-stage"],
    "negatives": ["results/negatives"],
    "train": ["results/checkpoints", "results/state"],
    "rerank": ["results/runs/reranked"],
    "evaluate": ["results/metrics", "results/per-query"],
    "table": ["results/tables"],
}
"""Rules in the order of the workflow, and where their outputs are."""

RULES = list(PHASES)
OTHER_NAMES = {"evaluate": ["evaluate", "evaluate_first_stage"]}

# The tiny experiment needs no network in any phase, so it gets none.
COMMAND = [*(ALONE if can_unshare(*ALONE[1:]) else []), "snakemake", "--cores", "2"]


def undo(project, first: int) -> None:
    """Removes the outputs of a phase and of later phases, and MLflow's data."""
    for rule in RULES[first:]:
        for path in PHASES[rule]:
            shutil.rmtree(project.folder / path, ignore_errors=True)
    if first <= RULES.index("train"):
        for path in project.folder.glob("mlflow.db*"):
            path.unlink()


def rules_from(phase: int) -> list[str]:
    return [name for rule in RULES[phase:] for name in OTHER_NAMES.get(rule, [rule])]


@pytest.mark.timeout(7200)
def test_a_run_killed_anywhere_ends_as_an_undisturbed_one(finished, project, chosen: random.Random, kills: int) -> None:
    first = 0 if kills else RULES.index("train")
    undo(project, first)
    plan = sorted(chosen.choices(range(first, len(RULES)), k=kills or 1))
    for number, phase in enumerate(plan):
        how, delay = chosen.choice(KILLS), chosen.uniform(0, 6 if kills else 3)
        where = f"kill {number + 1} of {len(plan)}: {how}, {delay:.2f} s after a job of {RULES[phase]}"
        print(where)
        with Disturbed(project, *COMMAND) as run:
            if run.wait_for_job(rules_from(phase)):
                time.sleep(delay)
            run.kill(how, chosen)
            # If one process of a job is killed that was not needed, the run continues.
            assert run.ends(600 if how == "one process of a job" else 60), (
                f"{where}\n{run.said}\nstill running: {run.processes()}"
            )
            assert "Traceback" not in run.said or how == "one process of a job", f"{where}\n{run.said}"
            complete = run.process.returncode == 0
        if complete:
            assert_same(project, finished)
            undo(project, phase)
    with Disturbed(project, *COMMAND) as run:
        assert run.process.wait() == 0, run.said
        assert run.said.count("ssmrank: ") <= 1, run.said
    assert_same(project, finished)
