"""A PostgreSQL server of the tests' own, in a temporary folder and on a free port of loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from browsers import free_port

USER = "ssmrank"
PASSWORD = "not:a/secret@all"
"""With the characters that an address must quote."""


def _binaries() -> Path | None:
    """The folder of the newest PostgreSQL; Debian has one for each version and none of them on PATH."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if folders:
        return max(folders, key=lambda path: float(path.parents[1].name)).parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


class Postgres:
    """A server with passwords (SCRAM), as a cluster's has."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder, self.port = binaries, folder, free_port()
        # PostgreSQL refuses to run as root.
        owner = next((name for name in ("postgres", "nobody") if _exists(name)), None) if os.getuid() == 0 else None
        self._as = ["setpriv", f"--reuid={owner}", "--clear-groups", "--"] if owner else []
        if owner:
            shutil.chown(folder, owner)

    def command(self, name: str, *arguments: str) -> str:
        """Runs one of the server's programs; returns what it printed."""
        # pg_ctl's server inherits the output, so that a pipe would never end.
        with tempfile.TemporaryFile("w+") as output:
            command = [*self._as, str(self.binaries / name), *arguments]
            finished = subprocess.run(command, cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
            output.seek(0)
            said = output.read()
        assert finished.returncode == 0, f"{name}: {said}\n{self.log()}"
        return said

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def make(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        settings = ["--auth=scram-sha-256", f"--username={USER}", f"--pwfile={password}", "--encoding=UTF8"]
        self.command("initdb", *settings, "--no-sync", "--no-locale", "-D", str(self.folder / "data"))
        password.unlink()

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off -c max_connections=50"
        self.command("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-o", options, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Ends the server; `immediate` is a crash, from which the next start recovers."""
        self.command("pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")

    def address(self, database: str) -> str:
        """The address of a database, without the password, as params.yaml has it."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def database(self, name: str, template: str = "template1") -> str:
        """Makes a database, which is empty or a copy of another one; returns its address."""
        self.query("postgres", f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.address(name)

    def query(self, database: str, sql: str) -> list[tuple]:
        """The rows of a statement, without MLflow between."""
        import psycopg2

        with closing(psycopg2.connect(self.address(database), password=PASSWORD)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server; tests take a database each."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("needs Debian's package postgresql")
    # pytest's own folders are closed to the server's user.
    with tempfile.TemporaryDirectory(prefix="ssmrank-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(binaries, Path(folder))
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def with_tables(postgres: Postgres) -> str:
    """The name of a database with MLflow's tables, of which tests take copies."""
    from ssmrank.tracking.store import create

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        create(postgres.database("with-tables"), "ssmrank")
    # A copy needs a database that nobody is connected to; MLflow keeps connections.
    postgres.query("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'with-tables'")
    return "with-tables"
