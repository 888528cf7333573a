"""The environment of jobs, and what happens to their journals."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline import slurm
from pipeline.paths import JOURNALS, LOGS
from ssmrank.config.tracking import Tracking
from ssmrank.lifetime import STARTER, myself


def prepare(tracking: Tracking) -> None:
    """Sets variables that jobs inherit, unless the user has set them. Jobs end with this process."""
    # A plan's objects live until its end; collecting garbage after every 700 of them takes a third of its time.
    gc.set_threshold(100_000, 20, 20)
    defaults = {
        "MLFLOW_TRACKING_URI": tracking.uri,
        "MLFLOW_EXPERIMENT_NAME": tracking.experiment,
        "SSMRANK_TRACKING_JOURNALS": JOURNALS,
        "SSMRANK_TRACKING_MODELS": tracking.models,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
    } | ({"SSMRANK_TRACKING_ARTIFACTS": tracking.artifacts} if tracking.artifacts else {})
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ[STARTER] = myself()
    # Each job starts Python, which takes half the time if it may cache bytecode.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # `ssmrank` is beside the Python that runs Snakemake, whether its environment is activated or not.
    here = str(Path(sys.executable).parent)
    if os.environ["PATH"].split(os.pathsep)[0] != here:
        os.environ["PATH"] = os.pathsep.join([here, os.environ["PATH"]])
    if shutil.which("ssmrank") is None:
        raise SystemExit(f"ssmrank: error: no command `ssmrank` next to {sys.executable}; install the project there")


def deliver_journals() -> None:
    """Writes journals, if any, to MLflow; a failure prints a line, and the run still succeeds."""
    if not any(Path(JOURNALS).glob("*.jsonl")):
        return
    finished = subprocess.run(["ssmrank", "tracking-store", "--journals", JOURNALS], capture_output=True, text=True)
    said = finished.stderr.strip().splitlines()
    for line in said:
        if warning := re.match(r"[\d:]+ tracking: (.*)", line):
            print(f"warning: {warning[1]}")
    if finished.returncode:
        reason = (said or ["no reason given"])[-1]
        print(f"warning: not all of this run is in MLflow yet ({reason}); the next run tries again from {JOURNALS}")


def repeat_errors(started: float) -> None:
    """At the end of a failed run, repeats the error line of each failed job."""
    for log in sorted(Path(LOGS).rglob("*.log")):
        if log.stat().st_mtime < started:
            continue
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines and ": error: " in lines[-1]:
            print(lines[-1], file=sys.stderr)
    slurm.repeat_ends()
