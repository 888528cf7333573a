"""MLflow's store, which is created once and written by one process at a time."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ssmrank.config.metrics import ALIASES, MEASURES
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.io.files import open_file
from ssmrank.io.locks import locked
from ssmrank.io.model_files import TRAINED_FILE
from ssmrank.lifetime import is_alive

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

RUN_TAG = "ssmrank.run"
MODELS = "SSMRANK_TRACKING_MODELS"
"""Environment variable: `path` (the default), `copy` or `none`, what is kept of a training's checkpoint as a model."""

_MODEL_TAG = "ssmrank.model"
"""The model of MLflow that a run's checkpoint is."""

_MARK = ".delivered"
"""Suffix of the file with the number of a journal's bytes that are in the store."""

_VIEW = "metrics"
"""Names the view of the page that shows metrics."""

_MEAN = re.compile(rf"/({'|'.join([*MEASURES, *ALIASES])})(_at_|_|$)[^/]*$")
"""Metrics of evaluations among all that are logged."""

_STATES = ("FINISHED", "FAILED", "KILLED")
_METRICS_IN_A_BATCH = 1000
_PARAMS_IN_A_BATCH = 100
_PARAM_LENGTH = 500


def create(uri: str, experiment: str) -> None:
    """Creates the store and the experiment where they do not exist. Raises UserError where that fails."""
    with _exclusive(uri):
        _open(uri, experiment)


def deliver(folder: str | Path, uri: str, experiment: str) -> int:
    """Copies new records of a folder's journals to the store; returns the number of journals that had any.

    A journal is deleted once its end is delivered, or its records are delivered and its job is dead. A malformed
    journal is renamed, with a warning. Raises UserError where the store does not work; records that it does not have
    yet stay in their journals.
    """
    folder = Path(folder)
    if not _journals(folder):
        return 0
    with _exclusive(uri):
        client, experiment_id = _open(uri, experiment)
        delivered = 0
        for journal in _journals(folder):
            try:
                delivered += _deliver_journal(journal, client, experiment_id)
            except _Malformed as error:
                _set_aside(journal, str(error))
        if delivered:
            _describe(client, experiment_id)
    return delivered


def _describe(client: MlflowClient, experiment_id: str) -> None:
    """Has MLflow's page show trainings with their metrics: a shared view with a column for each, and a link to it.

    By itself the page opens on an empty overview of another use of MLflow, and its list of runs has no metrics.
    """
    runs = client.search_runs([experiment_id], max_results=1000)
    columns = sorted({name for run in runs for name in run.data.metrics if _MEAN.search(name)})
    tags = sorted({"collection", "seed"} & {name for run in runs for name in run.data.tags})
    view = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": [*(f"metrics.`{name}`" for name in columns), *(f"tags.`{name}`" for name in tags)],
        "runsPinned": [],
        "runsHidden": [],
        "runsExpanded": {},
    }
    link = f"#/experiments/{experiment_id}/runs?viewStateShareKey={_VIEW}&workflowType=machine_learning"
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{_VIEW}", json.dumps(view))
    known = client.get_experiment(experiment_id).tags
    for key, value in (
        ("mlflow.experimentKind", "custom_model_development"),
        ("mlflow.note.content", f"[Trainings and their metrics]({link})"),
    ):
        if key not in known:  # a person may have written another note
            client.set_experiment_tag(experiment_id, key, value)


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


@contextmanager
def _exclusive(uri: str) -> Iterator[None]:
    """Locks a database file, so that one process at a time uses it; a server needs no lock."""
    if not uri.startswith("sqlite:///"):
        with _store_errors(uri):
            yield
        return
    database = Path(uri.removeprefix("sqlite:///").split("?")[0])
    with ExitStack() as stack:
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(Path(f"{database}.lock")))
        except OSError as error:
            raise UserError(f"{database}: cannot create MLflow's store: {error.strerror}; set tracking.uri") from error
        _check_database(database)
        with _store_errors(uri):
            yield


def _check_database(database: Path) -> None:
    """Raises UserError where a file is not a sound database of MLflow; MLflow would try to open it for an hour."""
    if not os.path.lexists(database):
        return
    open_file(database).close()
    advice = "move it away: a new one is created, or restore a copy"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise UserError(f"{database}: is not a valid SQLite database ({error}); {advice}") from error
    if found != "ok":
        raise UserError(f"{database}: is damaged ({found.splitlines()[-1]}); {advice}")
    if tables and not tables & {"experiments", "alembic_version"}:
        raise UserError(f"{database}: is a database of another program; set tracking.uri to another file")


@contextmanager
def _store_errors(uri: str) -> Iterator[None]:
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError) as error:
        raise UserError(f"{uri}: MLflow's store does not work: {' '.join(str(error).split())[:300]}") from error


def _open(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is not None and found.lifecycle_stage != "active":
        raise UserError(f"{uri}: experiment {experiment!r} is deleted; restore it or change tracking.experiment")
    return client, found.experiment_id if found is not None else client.create_experiment(experiment, _artifacts(uri))


def _artifacts(uri: str) -> str | None:
    """The folder of models: beside a database file, wherever the process runs; a server has its own."""
    if not uri.startswith("sqlite:///"):
        return None
    return str(Path(uri.removeprefix("sqlite:///").split("?")[0]).resolve().parent / "mlruns")


@dataclass
class _News:
    """The records of a journal that have not been delivered."""

    start: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    end: dict[str, Any] | None = None


class _Malformed(Exception):
    """A journal that no job can have written."""


def _set_aside(journal: Path, reason: str) -> None:
    aside = journal.with_suffix(".malformed")
    log.warning("tracking: %s: %s; set aside as %s", journal, reason, aside.name)
    journal.replace(aside)
    journal.with_suffix(_MARK).unlink(missing_ok=True)


def _deliver_journal(journal: Path, client: MlflowClient, experiment_id: str) -> bool:
    mark = journal.with_suffix(_MARK)
    offset = _delivered(mark)
    try:
        text = journal.read_bytes()
    except OSError as error:
        raise _Malformed(error.strerror) from error
    complete = text.rfind(b"\n") + 1
    news = _news(text[:complete], offset)
    if news.end is None and _is_dead(news.start):
        news.end = {"status": "KILLED", "time": int(journal.stat().st_mtime * 1000)}
    if complete > offset or news.end is not None:
        _log_or_refuse(news, client, experiment_id)
    if news.end is not None:
        journal.unlink()
        mark.unlink(missing_ok=True)
    else:
        with atomic_file(mark) as stream:
            stream.write(str(complete))
    return complete > offset


def _delivered(mark: Path) -> int:
    """Bytes of a journal that were delivered before. Records delivered twice do no harm: MLflow keeps them once."""
    try:
        return int(mark.read_text())
    except (OSError, ValueError):
        return 0


def _news(text: bytes, offset: int) -> _News:
    """The records after the first `offset` bytes."""
    try:
        return _read_news(text, offset)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Malformed(f"is not a journal of a job ({error!r})") from error


def _read_news(text: bytes, offset: int) -> _News:
    news: _News | None = None
    position = 0
    for line in text.splitlines(keepends=True):
        old = position < offset
        position += len(line)
        event = json.loads(line)
        if news is None:
            if event["event"] != "start":
                raise ValueError("the first line is not the start of a job")
            news = _News({key: event[key] for key in ("run", "name", "time", "host")})
            news.start |= {"time": int(event["time"]), "process": event.get("process", "")}
            if not old:
                news.params.update(event["params"])
                news.tags.update(event["tags"])
        elif old:
            continue
        elif event["event"] == "metrics":
            time, step = int(event["time"]), int(event["step"])
            news.metrics += [(name, float(value), time, step) for name, value in event["values"].items()]
        elif event["event"] == "params":
            news.params.update(event["values"])
        elif event["event"] == "tags":
            news.tags.update(event["values"])
        elif event["event"] == "end":
            if event["status"] not in _STATES:
                raise ValueError(f"{event['status']!r} is not a state of a run")
            news.end = {"status": event["status"], "time": int(event["time"])}
    if news is None:
        raise ValueError("it has no line")
    return news


def _log_or_refuse(news: _News, client: MlflowClient, experiment_id: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        _log(news, client, experiment_id)
    except MlflowException as error:
        reason = " ".join(str(error).split())[:300]
        if error.error_code == "INVALID_PARAMETER_VALUE":
            raise _Malformed(f"MLflow does not take it: {reason}") from error
        raise UserError(f"MLflow's store does not take a run: {reason}; the journals stay where they are") from error


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
    # MLflow's parameters cannot change. A later job of the same run, such as an evaluation in its training's run,
    # therefore keeps the parameters and tags that are there.
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
        checkpoint = news.tags.get("checkpoint") or run.data.tags.get("checkpoint")
        if checkpoint and news.end["status"] == "FINISHED" and _MODEL_TAG not in run.data.tags:
            _log_model(client, run_id, Path(checkpoint))
        client.set_terminated(run_id, news.end["status"], news.end["time"])


def _log_model(client: MlflowClient, run_id: str, checkpoint: Path) -> None:
    """Logs a trained reranker as a model; a failure is a warning, because the run itself is in the store."""
    kept = os.environ.get(MODELS, "path")
    if kept == "none" or not (checkpoint / TRAINED_FILE).is_file():
        return
    if elsewhere := _made_elsewhere(client, run_id):
        reason = f"the store was made in {elsewhere} and would keep it there"
        log.warning("tracking: %s is no model in MLflow: %s", checkpoint, reason)
        return
    import mlflow

    from ssmrank.integrations.mlflow import log_reranker

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        with mlflow.start_run(run_id=run_id):  # which ends it; its real end is set afterwards
            client.set_tag(run_id, _MODEL_TAG, log_reranker(checkpoint, copy=kept == "copy").model_uri)
    except Exception as error:  # MLflow raises many types, and a run may be active in this process
        log.warning("tracking: %s is no model in MLflow: %s", checkpoint, " ".join(str(error).split())[:300])
    finally:
        mlflow.set_tracking_uri(before)


def _made_elsewhere(client: MlflowClient, run_id: str) -> Path | None:
    """The folder that a database was made in, if it is another than its present one.

    The store remembers the folder of its models, so those of a moved or copied project would be written there.
    """
    own = _artifacts(client.tracking_uri)
    location = client.get_experiment(client.get_run(run_id).info.experiment_id).artifact_location
    place = Path(location.removeprefix("file://"))
    made = next((folder.parent for folder in (place, *place.parents) if folder.name == "mlruns"), None)
    return made if own is not None and made is not None and made.resolve() != Path(own).parent else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _name(name: str) -> str:
    """A name that MLflow allows (letters, digits and `_-. :/`): nDCG@10 becomes nDCG_at_10."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))


def _is_dead(start: Mapping[str, Any]) -> bool:
    if start["host"] != socket.gethostname():
        return False
    return not is_alive(start["process"])
