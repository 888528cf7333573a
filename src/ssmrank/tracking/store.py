"""MLflow's store: created once, written by one process at a time."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmrank.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

RUN_TAG = "ssmrank.run"
_METRICS_IN_A_BATCH = 1000
_PARAMS_IN_A_BATCH = 100
_PARAM_LENGTH = 500


def create(uri: str, experiment: str) -> None:
    """Creates the store and the experiment where they do not exist. Raises UserError where that is impossible."""
    with _exclusive(uri):
        _open(uri, experiment)


def deliver(folder: str | Path, uri: str, experiment: str) -> int:
    """Brings what is new in a folder's journals into the store; returns the number of journals that had news.

    A journal is deleted once it is delivered to its end, or its job is dead. What cannot be delivered stays.
    """
    folder = Path(folder)
    if not _journals(folder):
        return 0
    with _exclusive(uri):
        client, experiment_id = _open(uri, experiment)
        delivered = 0
        for journal in _journals(folder):
            delivered += _deliver_journal(journal, client, experiment_id)
    return delivered


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


@contextmanager
def _exclusive(uri: str) -> Iterator[None]:
    """One process at a time for a database in a file; a server looks after itself."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    database = Path(uri.removeprefix("sqlite:///").split("?")[0])
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{database}.lock", os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise UserError(f"{database}: cannot create MLflow's store: {error.strerror}; set tracking.uri") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _open(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage != "active":
            raise UserError(f"{uri}: experiment {experiment!r} is deleted; restore it or change tracking.experiment")
        return client, found.experiment_id if found is not None else client.create_experiment(experiment)
    except MlflowException as error:
        raise UserError(f"{uri}: cannot open MLflow's store: {' '.join(str(error).split())[:300]}") from error


@dataclass
class _News:
    """What a journal says beyond the part that was delivered before."""

    start: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    end: dict[str, Any] | None = None


def _deliver_journal(journal: Path, client: MlflowClient, experiment_id: str) -> bool:
    mark = journal.with_suffix(".delivered")
    offset = int(mark.read_text()) if mark.exists() else 0
    text = journal.read_bytes()
    complete = text.rfind(b"\n") + 1
    news = _news(text[:complete], offset)
    if news is None:
        return False
    if news.end is None and _is_dead(news.start):
        news.end = {"status": "KILLED", "time": int(journal.stat().st_mtime * 1000)}
    if complete > offset or news.end is not None:
        _log(news, client, experiment_id)
    if news.end is not None:
        journal.unlink()
        mark.unlink(missing_ok=True)
    else:
        mark.write_text(str(complete))
    return complete > offset


def _news(text: bytes, offset: int) -> _News | None:
    news: _News | None = None
    position = 0
    for line in text.splitlines(keepends=True):
        old = position < offset
        position += len(line)
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if news is None:
            if event.get("event") != "start":
                return None
            news = _News(event)
            if not old:
                news.params.update(event["params"])
                news.tags.update(event["tags"])
        elif old:
            continue
        elif event["event"] == "metrics":
            news.metrics += [(name, value, event["time"], event["step"]) for name, value in event["values"].items()]
        elif event["event"] == "params":
            news.params.update(event["values"])
        elif event["event"] == "tags":
            news.tags.update(event["values"])
        elif event["event"] == "end":
            news.end = event
    return news


def _log(news: _News, client: MlflowClient, experiment_id: str) -> None:
    from mlflow.entities import Metric, Param, RunTag

    key = news.start["run"]
    runs = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{key}'", max_results=1)
    if runs:
        run = runs[0]
    else:
        run = client.create_run(
            experiment_id, start_time=news.start["time"], tags={RUN_TAG: key}, run_name=news.start["name"]
        )
    # A run keeps what its first job said of it: parameters cannot change, and an evaluation joins its training's run.
    tags = [RunTag(_name(name), str(value)) for name, value in news.tags.items() if name not in run.data.tags]
    params = [
        Param(_name(name), value[:_PARAM_LENGTH])
        for name, value in _flat(news.params)
        if _name(name) not in run.data.params
    ]
    metrics = [Metric(_name(name), value, time, step) for name, value, time, step in news.metrics]
    run_id = run.info.run_id
    client.log_batch(run_id, tags=tags)
    for first in range(0, len(params), _PARAMS_IN_A_BATCH):
        client.log_batch(run_id, params=params[first : first + _PARAMS_IN_A_BATCH])
    for first in range(0, len(metrics), _METRICS_IN_A_BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + _METRICS_IN_A_BATCH])
    if news.end is not None:
        client.set_terminated(run_id, news.end["status"], news.end["time"])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _name(name: str) -> str:
    """MLflow allows letters, digits and `_-. :/` in names: nDCG@10 becomes nDCG_at_10."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))


def _is_dead(start: Mapping[str, Any]) -> bool:
    if start["host"] != socket.gethostname():
        return False
    try:
        os.kill(start["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
