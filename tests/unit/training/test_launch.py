from __future__ import annotations

import json
import sys

import pytest

from ssmrank.cli import main
from ssmrank.errors import UserError
from ssmrank.launch import LOST, launch
from ssmrank.models.reranker import load_reranker


def command(code):
    return [sys.executable, "-c", f"import os, signal, sys, time; rank = int(os.environ['RANK']); {code}"]


def test_processes_are_told_who_they_are(tmp_path):
    names = "'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR'"
    launch(command(f"open(rf'{tmp_path}/{{rank}}', 'w').write(' '.join(os.environ[n] for n in ({names})))"), 3)
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [
        f"{rank} {rank} 3 127.0.0.1" for rank in range(3)
    ]


@pytest.mark.parametrize(
    ("death", "line"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"process 1 of 3 ended by SIGKILL; the others were stopped; start"),
        ("sys.exit('no such device')", r"process 1 of 3 ended with status 1 \(no such device\); the others"),
    ],
)
def test_a_dead_process_ends_the_others_with_one_line(tmp_path, monkeypatch, death, line):
    monkeypatch.setattr("ssmrank.launch._GRACE_SECONDS", 0.1)
    code = f"open(rf'{tmp_path}/{{rank}}', 'w').write(str(os.getpid())); print('at work', file=sys.stderr); "
    with pytest.raises(UserError, match=line):
        launch(command(code + f"{death} if rank == 1 else time.sleep(600)"), 3)


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ("time.sleep(0.5); sys.exit('no such device')", r"process 1 of 2 ended with status 1 \(no such device\); the"),
        ("time.sleep(600)", r"process 0 of 2 ended, as another one no longer answered; the others were stopped; start"),
    ],
)
def test_the_line_is_about_the_process_that_left_the_others_alone(monkeypatch, other, line):
    monkeypatch.setattr("ssmrank.launch._GRACE_SECONDS", 2.0)
    with pytest.raises(UserError, match=line):
        launch(command(f"sys.exit({LOST}) if rank == 0 else None; {other}"), 2)


def test_what_the_first_process_said_is_not_said_again():
    with pytest.raises(SystemExit) as stopped:
        launch(command("sys.exit(2)"), 2)
    assert stopped.value.code == 2


@pytest.mark.slow
def test_train_starts_its_processes(options, tmp_path):
    assert main(options(epochs=2, parallel="ddp", processes=2)) == 0
    assert json.loads((tmp_path / "output" / "outcome.json").read_text())["steps"] == 2
    assert len(load_reranker(tmp_path / "output").score("river", ["fish", "mamba"])) == 2
    assert not (tmp_path / "state").exists()
