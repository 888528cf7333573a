"""The journal of a job: its records for MLflow, one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.lifetime import myself

log = logging.getLogger(__name__)

URI = "MLFLOW_TRACKING_URI"
"""Environment variable with the URI of MLflow's store; where it is not set, nothing is tracked."""

EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"

JOURNALS = "SSMRANK_TRACKING_JOURNALS"
"""Environment variable with the folder of journals that the workflow delivers.

Where it is not set, each job delivers its own journal when it ends.
"""

LIVE_SECONDS = 300.0
"""Seconds between deliveries to the store while a long job runs."""


class Tracked:
    """Records what a job reports about itself. Without a journal (tracking is off) every method does nothing."""

    def __init__(self, journal: Path | None = None, run_id: str | None = None) -> None:
        self.run_id = run_id
        """The run's id for `track(resume=...)`; it is the tag `ssmrank.run` in MLflow."""
        self._journal = journal
        self._delivered = time.monotonic()
        self._delivery: subprocess.Popen | None = None

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Records numbers by name, at a step (of the optimizer, for example) if they have one."""
        self._write("metrics", values={name: float(value) for name, value in values.items()}, step=step or 0)
        self._deliver_now_and_then()

    def params(self, values: Mapping[str, Any]) -> None:
        """Records settings by name; nested settings get dotted names."""
        self._write("params", values=dict(values))

    def artifact_path(self, name: str, path: str | Path) -> None:
        """Records the path of an output as a tag; the output is not copied."""
        self._write("tags", values={name: str(path)})

    def _write(self, event: str, **fields: Any) -> None:
        if self._journal is None:
            return
        line = json.dumps({"event": event, "time": int(time.time() * 1000), **fields}, default=str)
        try:
            # The first line is written atomically, so that every journal names its run.
            beginning = atomic_file(self._journal) if event == "start" else self._journal.open("a", encoding="utf-8")
            with beginning as stream:
                stream.write(line + "\n")
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.warning("tracking: %s: %s; the job continues without tracking", self._journal, reason)
            self._journal = None

    def _deliver_now_and_then(self) -> None:
        now = time.monotonic()
        if self._journal is None or JOURNALS not in os.environ or now - self._delivered < LIVE_SECONDS:
            return
        if self._delivery is not None and self._delivery.poll() is None:
            return
        self._delivered = now
        command = [sys.executable, "-m", "ssmrank", "tracking-store", "--journals", str(self._journal.parent)]
        try:
            self._delivery = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            log.warning("tracking: cannot start %s: %s", command[0], error.strerror)


@contextmanager
def track(
    rule: str,
    name: str,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    resume: str | None = None,
    began: float | None = None,
) -> Iterator[Tracked]:
    """Tracks the job inside the `with` block as a run of MLflow.

    `began`: when the thing that is evaluated was made, in seconds since 1970; by default now. `resume` is the `run_id`
    of an earlier `Tracked`, whose run continues. Where the store does not have that run (in a fresh clone), a new run
    is created. Nothing is tracked unless MLFLOW_TRACKING_URI is set. The run ends as FAILED where the block raises.
    """
    if not os.environ.get(URI):
        yield Tracked()
        return
    shared = os.environ.get(JOURNALS)
    try:
        folder = Path(shared or tempfile.mkdtemp(prefix="ssmrank-tracking-"))
    except OSError as error:
        log.warning("tracking: no folder for the journal: %s; the job continues without tracking", error.strerror)
        yield Tracked()
        return
    run_id = resume or uuid.uuid4().hex
    tracked = Tracked(folder / f"{int(time.time() * 1000)}-{rule}-{uuid.uuid4().hex[:8]}.jsonl", run_id)
    when = {} if began is None else {"time": int(began * 1000)}
    tracked._write(
        "start",
        run=run_id,
        name=name,
        tags={"rule": rule, "git_revision": git_revision(), **(tags or {})},
        params=dict(params or {}),
        host=socket.gethostname(),
        process=myself(),
        **when,
    )
    status = "FAILED"
    try:
        yield tracked
        status = "FINISHED"
    finally:
        tracked._write("end", status=status, **when)
        if not shared:
            _deliver(folder)


def run_of(file: Path) -> str | None:
    """For `resume`: the run that a checkpoint's file `mlflow_run_id` names; None where its training was not tracked."""
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def untrained(model: str) -> str:
    """For `resume`: the one run of a reranker that was not trained here."""
    return f"untrained {model}"


def first_stage(retriever: str) -> str:
    """For `resume`: the one run of a first stage."""
    return f"first stage {retriever}"


def git_revision() -> str:
    """The commit of the working folder, with `-dirty` where tracked files differ from it; "unknown" outside Git.

    Where SSMRANK_RELEASE names an installed release, it is returned instead.
    """
    if release := os.environ.get("SSMRANK_RELEASE"):
        return release
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()


def _deliver(folder: Path) -> None:
    try:
        from ssmrank.tracking.store import deliver

        deliver(folder, os.environ[URI], os.environ.get(EXPERIMENT, "ssmrank"))
        folder.rmdir()
    except Exception as error:
        log.warning("tracking: %s; the journal stays in %s", " ".join(str(error).split())[:300], folder)
