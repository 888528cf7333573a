"""What MLflow leaves open when its store is PostgreSQL: turns for what two processes must not do at once, and limits.

MLflow creates tables, experiments and runs without a lock, tries to connect for minutes, and waits for an answer for
ever.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from ssmrank.config.addresses import masked
from ssmrank.errors import UserError, reason_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

CONNECT_SECONDS = 10
"""How long a server may take to accept a connection, unless PGCONNECT_TIMEOUT says otherwise."""

ANSWER_SECONDS = 60
"""How long a server may take to answer a statement."""

TURN_SECONDS = 30
"""How long a process waits for its turn."""

_LOCK = 0x55D_3A4C
"""Names the advisory lock that the processes take."""

_CONNECTING = (0, 20)
"""psycopg2's states of a connection before the server has accepted it."""


class Turns:
    """Lets one process at a time do what must not be done twice; other processes may be on other machines."""

    def __init__(self, connection: Connection | None = None) -> None:
        """Without a connection there is nothing to wait for."""
        self._connection = connection

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until no other process has its turn. Raises SQLAlchemyError where the server does not answer."""
        if self._connection is None:
            yield
            return
        with self._connection.begin():
            self._connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{TURN_SECONDS}s'")
            self._connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            yield


@contextmanager
def turns(uri: str) -> Iterator[Turns]:
    """Turns of a PostgreSQL database; those of any other store are free.

    Raises UserError in bounded time where the database cannot be used. Within the block every statement has a limit.
    """
    if not uri.startswith(("postgres:", "postgresql:", "postgresql+")):
        yield Turns()
        return
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(CONNECT_SECONDS))  # another driver than psycopg2 reads it as well
    with _limited(), _connected(_engine(uri), masked(uri)) as connection:
        yield Turns(connection)


def _engine(uri: str) -> Engine:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError
    from sqlalchemy.pool import NullPool

    if uri.startswith("postgres:"):
        raise UserError(f"{masked(uri)}: write postgresql:// in place of postgres://")
    try:
        return create_engine(uri, poolclass=NullPool)
    except ModuleNotFoundError as error:
        raise UserError(f"{masked(uri)}: needs {error.name}; pip install 'ssmrank[cluster]'") from error
    except (ArgumentError, ValueError):  # the message may hold a part of a password
        form = "postgresql://USER@HOST:PORT/DATABASE"
        raise UserError(f"{masked(uri)}: is no address of a database; write {form}, special signs as %XX") from None


@contextmanager
def _connected(engine: Engine, shown: str) -> Iterator[Connection]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        connection = engine.connect()
    except SQLAlchemyError as error:
        raise UserError(f"{shown}: {_advice(str(getattr(error, 'orig', None) or error))}") from error
    with connection:
        yield connection


def _advice(said: str) -> str:
    reason = masked(reason_of(Exception(said)))
    if "no password supplied" in said or "authentication failed" in said:
        return f"MLflow's store refuses the password ({reason}); set PGPASSWORD, or write it into ~/.pgpass"
    if "does not exist" in said:
        return f"MLflow's store is missing ({reason}); create the database, or set tracking.uri"
    return f"MLflow's store does not answer ({reason}); start the server, or set tracking.uri"


@contextmanager
def _limited() -> Iterator[None]:
    """Limits the time of each answer. psycopg2 alone waits for ever for a server that is stopped or unreachable."""
    try:
        from psycopg2 import extensions
    except ModuleNotFoundError:  # another driver, or none
        yield
        return
    before = extensions.get_wait_callback()
    extensions.set_wait_callback(_wait)
    try:
        yield
    finally:
        extensions.set_wait_callback(before)


def _wait(connection: Any) -> None:
    """What psycopg2 calls to wait for an answer."""
    from psycopg2 import extensions

    while (state := connection.poll()) != extensions.POLL_OK:
        seconds = _connect_seconds() if connection.status in _CONNECTING else ANSWER_SECONDS
        poller = select.poll()
        poller.register(connection, select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        if not poller.poll(1000 * seconds):
            _give_up(seconds)


def _connect_seconds() -> int:
    given = os.environ.get("PGCONNECT_TIMEOUT", "")
    return int(given) if given.isdigit() and int(given) > 0 else CONNECT_SECONDS


def _give_up(seconds: int) -> NoReturn:
    from psycopg2 import OperationalError

    raise OperationalError(f"no answer for {seconds} seconds")
