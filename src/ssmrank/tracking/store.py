"""MLflow's store, which is created once, and to which each journal is copied by one process at a time."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ssmrank.config.addresses import masked
from ssmrank.errors import UserError
from ssmrank.io.atomic import atomic_file
from ssmrank.io.files import open_file
from ssmrank.io.locks import locked
from ssmrank.lifetime import is_alive
from ssmrank.tracking.artifacts import MODEL_TAG, NotKept, check_location, location, log_model
from ssmrank.tracking.database import Turns, turns
from ssmrank.tracking.page import describe

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

log = logging.getLogger(__name__)

RUN_TAG = "ssmrank.run"

_MARK = ".delivered"
"""Suffix of the file with the number of a journal's bytes that are in the store."""

_STATES = ("FINISHED", "FAILED", "KILLED")
_METRICS_IN_A_BATCH = 1000
_PARAMS_IN_A_BATCH = 100
_PARAM_LENGTH = 500

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Variables of MLflow, unless they are set.

By itself it tries for twenty minutes to reach its server, and prints the server's address with a password in it.
"""

_CHATTY = {
    "alembic": logging.WARNING,
    "mlflow": logging.WARNING,
    # They log what they raise as well, some of it with a traceback.
    "mlflow.store.db.utils": logging.CRITICAL,
    "sqlalchemy.pool": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}


def create(uri: str, experiment: str) -> None:
    """Creates the store and the experiment where they do not exist. Raises UserError where that fails."""
    with _exclusive(uri), turns(uri) as free:
        _open(uri, experiment, free)


def deliver(folder: str | Path, uri: str, experiment: str) -> int:
    """Copies new records of a folder's journals to the store; returns the number of journals that had any.

    Raises UserError where the store fails, or where it cannot keep a model; the journals concerned then stay.
    """
    folder = Path(folder)
    if not _journals(folder):
        return 0
    with _exclusive(uri, folder), turns(uri) as free:
        client, experiment_id = _open(uri, experiment, free)
        delivery = _Delivery(client, experiment_id, free)
        delivered = 0
        for journal in _journals(folder):
            try:
                delivered += delivery.take(journal)
            except _Malformed as error:
                _set_aside(journal, str(error))
        if delivered:
            with free.turn():
                describe(client, experiment_id)
    if delivery.not_kept is not None:
        raise UserError(f"{delivery.not_kept}; metrics are in MLflow, and the journal stays for the model")
    return delivered


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


@contextmanager
def _exclusive(uri: str, journals: Path | None = None) -> Iterator[None]:
    """Lets one process at a time use a database file, or deliver a folder of journals to a server."""
    with ExitStack() as stack:
        if uri.startswith("sqlite:///"):
            stack.enter_context(_locked_file(Path(uri.removeprefix("sqlite:///").split("?")[0])))
        elif journals is not None:
            with suppress(NotImplementedError):  # a file system without locks, where an experiment is one's own
                stack.enter_context(locked(journals / ".lock"))
        stack.enter_context(_store_errors(uri))
        yield


@contextmanager
def _locked_file(database: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(Path(f"{database}.lock")))
        except OSError as error:
            raise UserError(f"{database}: cannot create MLflow's store: {error.strerror}; set tracking.uri") from error
        _check_database(database)
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
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name, level in _CHATTY.items():
        logging.getLogger(name).setLevel(level)
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError) as error:
        reason = masked(" ".join(str(error).split())[:300])
        raise UserError(f"{masked(uri)}: MLflow's store does not work: {reason}") from error


def _open(uri: str, experiment: str, free: Turns) -> tuple[MlflowClient, str]:
    from mlflow import MlflowClient

    with free.turn():
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment) or _created(client, experiment)
    if found.lifecycle_stage != "active":
        raise UserError(f"{masked(uri)}: experiment {experiment!r} is deleted; restore it, or set another")
    check_location(uri, found.artifact_location, experiment)
    return client, found.experiment_id


def _created(client: MlflowClient, experiment: str) -> Experiment:
    from mlflow.exceptions import MlflowException

    try:
        client.create_experiment(experiment, location(client.tracking_uri))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
            raise
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return found


@dataclass
class _News:
    """The records of a journal that have not been delivered."""

    start: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    before_end: int = 0
    """The number of the journal's bytes before its end."""


class _Malformed(Exception):
    """A journal that no job can have written."""


def _set_aside(journal: Path, reason: str) -> None:
    aside = journal.with_suffix(".malformed")
    log.warning("tracking: %s: %s; set aside as %s", journal, reason, aside.name)
    journal.replace(aside)
    journal.with_suffix(_MARK).unlink(missing_ok=True)


@dataclass
class _Delivery:
    """The copying of journals to an experiment of an open store."""

    client: MlflowClient
    experiment_id: str
    free: Turns
    not_kept: NotKept | None = None
    """Why a model could not be stored. Other journals with models then wait as well, because each would take long."""

    def take(self, journal: Path) -> bool:
        """Copies what is new of a journal, and removes it if its job has ended; False where nothing was new."""
        mark = journal.with_suffix(_MARK)
        offset = _delivered(mark)
        try:
            text = journal.read_bytes()
        except FileNotFoundError:  # taken by another process, on a file system without locks
            return False
        except OSError as error:
            raise _Malformed(error.strerror) from error
        complete = text.rfind(b"\n") + 1
        news = _news(text[:complete], offset)
        if news.end is None and _is_dead(news.start):
            news.end = {"status": "KILLED", "time": int(journal.stat().st_mtime * 1000)}
        ended = news.end is not None
        if complete > offset or ended:
            ended = self._log_or_refuse(news) and ended
        if ended:
            journal.unlink(missing_ok=True)
            mark.unlink(missing_ok=True)
        else:
            with atomic_file(mark) as stream:
                stream.write(str(news.before_end if news.end is not None else complete))
        return complete > offset

    def _log_or_refuse(self, news: _News) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return self._log(news)
        except MlflowException as error:
            reason = masked(" ".join(str(error).split())[:300])
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise _Malformed(f"MLflow does not take it: {reason}") from error
            raise UserError(f"MLflow's store does not take a run: {reason}; the journals stay") from error

    def _log(self, news: _News) -> bool:
        """Writes the records; False where the run has ended but its model could not be stored."""
        with self.free.turn():
            run = self._run(news)
            _log_settings(self.client, run, news)
        _log_metrics(self.client, run, news)
        if news.end is None:
            return True
        kept = self._log_model(news, run)
        self.client.set_terminated(run.info.run_id, news.end["status"], news.end["time"])
        return kept

    def _run(self, news: _News) -> Run:
        """The run of a journal, which is created if there is none."""
        key = news.start["run"]
        runs = self.client.search_runs([self.experiment_id], f"tags.`{RUN_TAG}` = '{key}'", max_results=1)
        if runs:
            return runs[0]
        start, name = news.start["time"], news.start["name"]
        return self.client.create_run(self.experiment_id, start_time=start, tags={RUN_TAG: key}, run_name=name)

    def _log_model(self, news: _News, run: Run) -> bool:
        """Logs the checkpoint of a finished training as a model; False if that is to be tried again."""
        checkpoint = news.tags.get("checkpoint") or run.data.tags.get("checkpoint")
        assert news.end is not None
        if not checkpoint or news.end["status"] != "FINISHED" or MODEL_TAG in run.data.tags:
            return True
        if self.not_kept is None:
            try:
                log_model(self.client, run.info.run_id, Path(checkpoint))
            except NotKept as error:
                self.not_kept = error
        return self.not_kept is None


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
            news.before_end = position - len(line)
    if news is None:
        raise ValueError("it has no line")
    return news


def _log_settings(client: MlflowClient, run: Run, news: _News) -> None:
    from mlflow.entities import Param, RunTag

    # MLflow's parameters cannot change. A later job of the same run, such as an evaluation in its training's run,
    # therefore keeps the parameters and tags that are there.
    tags = [RunTag(_name(name), _text(value)) for name, value in news.tags.items() if name not in run.data.tags]
    params = [
        Param(_name(name), value[:_PARAM_LENGTH])
        for name, value in _flat(news.params)
        if _name(name) not in run.data.params
    ]
    client.log_batch(run.info.run_id, tags=tags)
    for first in range(0, len(params), _PARAMS_IN_A_BATCH):
        client.log_batch(run.info.run_id, params=params[first : first + _PARAMS_IN_A_BATCH])


def _log_metrics(client: MlflowClient, run: Run, news: _News) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(_name(name), value, time, step) for name, value, time, step in news.metrics]
    for first in range(0, len(metrics), _METRICS_IN_A_BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[first : first + _METRICS_IN_A_BATCH])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    """A value as text that every store takes: PostgreSQL refuses zero bytes, and no store has halves of characters."""
    return str(value).replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _name(name: str) -> str:
    """A name that MLflow allows (letters, digits and `_-. :/`): nDCG@10 becomes nDCG_at_10."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))


def _is_dead(start: Mapping[str, Any]) -> bool:
    if start["host"] != socket.gethostname():
        return False
    return not is_alive(start["process"])
