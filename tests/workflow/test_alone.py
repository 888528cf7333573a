"""One run at a time in a folder: the holder is named, and what a killed run left is removed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.alone import LOCK, SNAKEMAKE_LOCKS, Alone
from ssmrank.errors import UserError

LIBRARY = Path(__file__).parents[2] / "workflow" / "lib"
HOLDER = f"import sys; sys.path.insert(0, {str(LIBRARY)!r}); from pipeline.alone import Alone; alone = Alone(); "
TARGET = "data/collections/tiny"
"""What takes least to make."""
WAIT = "; print('here', flush=True); sys.stdin.read()"


@contextmanager
def holder(folder: Path, code: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", HOLDER + code + WAIT, "--cores", "2"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "here\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def alone(folder: Path) -> Iterator[Alone]:
    claim = Alone()
    yield claim
    claim.release()


@pytest.mark.slow
def test_a_live_run_is_named_and_the_other_refused(fresh) -> None:
    with holder(fresh.folder, "alone.run()") as process:
        answer = fresh.snakemake(TARGET, check=False)
        assert answer.returncode == 1
        said = [line for line in answer.stdout.splitlines() if not line.startswith("Using workflow specific profile")]
        [line] = [line for line in said if "error" in line]
        assert line.startswith("ssmrank: error: `-c --cores 2` (process ")
        assert f"(process {process.pid} on {socket.gethostname()}, since 20" in line
        assert line.endswith(" runs jobs in this folder; wait for it, or end it, and start again")
        assert "Traceback" not in answer.stdout
        assert fresh.planned(TARGET) == {"download_collection": 1}
        assert not (fresh.folder / "data").exists()
    leftover = fresh.folder / "data/indexes/tiny/.porter.abcd1234.part"
    leftover.mkdir(parents=True)
    (fresh.folder / SNAKEMAKE_LOCKS).mkdir(exist_ok=True)
    (fresh.folder / SNAKEMAKE_LOCKS / "0.output.lock").write_text(f"{TARGET}\n")
    printed = fresh.snakemake(TARGET).stdout
    assert printed.count("ssmrank: ") == 1
    assert "was killed; its lock and 1 unfinished file were removed" in printed
    assert not leftover.exists() and not (fresh.folder / LOCK).exists()


def test_one_that_plans_is_waited_for(folder: Path, alone: Alone) -> None:
    with holder(folder, "alone.claim(); import threading; threading.Timer(0.3, alone.release).start()"):
        alone.claim()
        assert alone.holds


def test_one_that_runs_is_not_waited_for(folder: Path, alone: Alone) -> None:
    with holder(folder, "alone.run()") as process:
        alone.claim()
        assert not alone.holds
        with pytest.raises(UserError, match=rf"process {process.pid} on .* runs jobs in this folder"):
            alone.run()
    alone.run()
    assert alone.holds


def test_a_run_that_ended_in_order_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        claim = Alone()
        claim.run()
        assert json.loads(LOCK.read_text())["runs"]
        claim.release()
        assert not LOCK.exists()
    assert capsys.readouterr().err == ""


def test_what_is_another_s_stays(folder: Path, alone: Alone) -> None:
    (folder / "tmp").mkdir()
    keep = [folder / "data/.a.part", folder / "tmp/below/.ssmrank.12345678.part"]
    gone = [folder / "data/.a.12345678.part", folder / "tmp/.ssmrank.12345678.part", folder / "results/.b.lock"]
    for path in [*keep, *gone]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    alone.run()
    assert all(path.exists() for path in keep)
    assert not any(path.exists() for path in gone)


@pytest.mark.parametrize("record", ["", "[]", "{", '{"runs": true, "host": 7}', '{"pid": "x"}'])
def test_a_damaged_record(folder: Path, alone: Alone, record: str) -> None:
    LOCK.parent.mkdir()
    LOCK.write_text(record)
    alone.forget()
    alone.claim()
    alone.forget()
    alone.run()
    assert json.loads(LOCK.read_text())["runs"]


ELSEWHERE = {"pid": 1, "start": "1", "host": "another.host", "since": "today", "runs": True, "command": "snakemake"}


def test_a_run_of_another_host_is_taken_for_ended_only_where_that_is_said(folder: Path) -> None:
    LOCK.parent.mkdir()
    LOCK.write_text(json.dumps(ELSEWHERE))
    for _ in range(2):
        claim = Alone()
        with pytest.raises(UserError, match=r"process 1 on another\.host, since today\) .*`snakemake --unlock`"):
            claim.run()
        claim.release()
    claim = Alone()
    claim.claim()
    claim.forget()
    claim.release()
    claim = Alone()
    claim.run()
    claim.release()


def test_without_locks_on_files_the_record_counts(folder: Path, alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "not supported")

    with holder(folder, "alone.run()"):
        monkeypatch.setattr("fcntl.flock", unsupported)
        with pytest.raises(UserError, match="runs jobs in this folder"):
            alone.run()
    alone.run()
    assert alone.holds


def test_what_a_run_killed_after_its_last_job_has_not_told_mlflow(project) -> None:
    """The next run, which has nothing to do, delivers it."""
    start = {"event": "start", "time": 1, "run": "d" * 32, "name": "late", "tags": {}, "params": {}}
    journal = project.folder / "results/tracking/1-train-a.jsonl"
    journal.write_text(
        json.dumps(start | {"host": "h", "process": ""}) + '\n{"event": "end", "time": 2, "status": "FAILED"}\n'
    )
    assert "Nothing to be done" in project.snakemake().stdout
    assert not journal.exists()
