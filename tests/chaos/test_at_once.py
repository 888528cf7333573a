"""Several commands in one folder at once: one works, the others are refused with one line, and nothing is broken."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from chaos.disturbed import Disturbed
from chaos.same import assert_same

JOB = """
import sys, time
from ssmrank.tracking import journal, track
journal.LIVE_SECONDS = 0.0
with track("train", sys.argv[1]) as tracked:
    for step in range(STEPS):
        tracked.metrics({"loss": float(step), "rate": 1.0}, step=step)
"""


def test_two_snakemakes_and_a_dvc_repro(finished, project) -> None:
    for name in ("tables", "provenance"):
        shutil.rmtree(project.folder / "results" / name)
    (project.folder / "results/metrics/tiny/test/bm25.json").unlink()
    with ExitStack() as stack:
        commands = [["snakemake", "--cores", "1"], ["snakemake", "--cores", "1"], ["dvc", "repro"]]
        runs = [stack.enter_context(Disturbed(project, *command)) for command in commands]
        for run in runs:
            run.process.wait()
            refused = [line for line in run.said.splitlines() if " runs jobs in this folder; wait for it" in line]
            assert run.process.returncode == 0 or len(refused) == 1, run.said
            assert "Traceback" not in run.said
        assert any(run.process.returncode == 0 for run in runs)
    project.snakemake()
    assert_same(project, finished)


@pytest.mark.timeout(1200)
def test_eight_jobs_log_while_deliveries_are_killed(tmp_path: Path, long: None) -> None:
    """Every metric of every job is in the store once, whatever happens to the deliveries."""
    steps = 2000
    journals = tmp_path / "journals"
    settings = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "SSMRANK_TRACKING_JOURNALS": str(journals)}
    environment = os.environ | settings
    deliver = [sys.executable, "-m", "ssmrank", "tracking-store", "--journals", str(journals)]
    code = JOB.replace("STEPS", str(steps))
    jobs = [subprocess.Popen([sys.executable, "-c", code, f"job {n}"], env=environment) for n in range(8)]
    killed = [subprocess.Popen(deliver, env=environment, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0] * 8
    for delivery in killed:
        delivery.kill()
        delivery.wait()
    while list(journals.glob("*.jsonl")):  # deliveries that jobs started may still be running
        subprocess.run(deliver, env=environment, check=True)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        query = "select name, key, count(*), count(distinct step) from metrics join runs using (run_uuid) group by 1, 2"
        counts = {(name, key): numbers for name, key, *numbers in database.execute(query)}
        states = {state for (state,) in database.execute("select status from runs")}
    assert counts == {(f"job {n}", key): [steps, steps] for n in range(8) for key in ("loss", "rate")}
    assert states == {"FINISHED"}
    assert list(journals.iterdir()) == []
